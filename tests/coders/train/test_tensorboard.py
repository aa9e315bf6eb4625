"""Rows reach TensorBoard's writer once each; the package itself is not needed for that."""

from __future__ import annotations

import builtins
import math
import sys
import types

import pytest
from fake_latents import make_history

from interp.coders.train.tensorboard import TensorBoardLog
from interp.errors import CoderError


@pytest.fixture
def writers(monkeypatch):
    made = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step):
            self.log_dir, self.purge_step = log_dir, purge_step
            self.rows, self.closed, self.flushed = [], False, 0
            made.append(self)

        def add_scalar(self, name, value, step):
            self.rows.append((name, value, step))

        def flush(self):
            self.flushed += 1

        def close(self):
            self.closed = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def test_every_row_is_written_once(writers, tmp_path):
    log = TensorBoardLog(tmp_path / "runs")
    for rows in (1, 1, 3):
        log(make_history(rows=rows))
    (writer,) = writers
    assert writer.log_dir == str(tmp_path / "runs")
    assert writer.purge_step == 1000
    losses = [(value, step) for name, value, step in writer.rows if name == "loss"]
    assert losses == [(1.0, 1000), (0.5, 2000), (pytest.approx(1 / 3), 3000)]
    assert [step for name, _, step in writer.rows if name == "loss/auxk"] == [1000, 2000, 3000]
    assert writer.flushed == 2
    log.finish()
    assert writer.closed


def test_several_coders_have_a_folder_each(writers, tmp_path):
    log = TensorBoardLog(tmp_path)
    log(make_history(("k=16", "a/b c"), rows=2))
    assert [writer.log_dir for writer in writers] == [str(tmp_path / "k=16"), str(tmp_path / "a_b_c")]
    assert [row[1] for row in writers[1].rows if row[0] == "loss"] == [2.0, 1.0]


def test_what_was_not_measured_is_left_out(writers, tmp_path):
    log = TensorBoardLog(tmp_path)
    log(make_history(fvu=math.nan))
    assert not any(name == "fvu" for name, *_ in writers[0].rows)
    assert not any(math.isnan(value) for _, value, _ in writers[0].rows)


def test_without_tensorboard_the_package_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def lacking(name, *args, **kwargs):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(CoderError, match="pip install tensorboard"):
        TensorBoardLog(tmp_path)
