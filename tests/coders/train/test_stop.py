"""Ctrl-C, SIGTERM and errors in the middle of training: what is raised, what is kept, what is put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from coder_toys import KINDS, SHORT, StopAt, StopError, Untold, differences, draw_rows

import interp
from interp.coders import CoderConfig, TrainingInterrupted, train_coder
from interp.coders.train.tensorboard import TensorBoardLog
from interp.errors import CoderError
from interp.plots.live import LiveCurves
from interp.results.coder_history import CoderHistory

TOPK = KINDS["topk"]
LONG: dict[str, Any] = {**SHORT, "tokens": 900, "log_every": 1}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of both signals are after every test what they were before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    signal.signal(signal.SIGINT, before[signal.SIGINT])


def send(*numbers: signal.Signals, after: int = 3) -> Any:
    """A callback that sends this process signals at a point."""

    def callback(history: CoderHistory) -> None:
        if len(history) == after:
            for number in numbers:
                signal.raise_signal(number)

    return callback


def test_ctrl_c_gives_the_coder_so_far_in_units_of_the_activations(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="stopped after 96 rows; the checkpoint in") as caught:
        train_coder(
            TOPK, draw_rows(), checkpoint=tmp_path, callbacks=[send(signal.SIGINT)], progress=False, **LONG
        )
    coder = caught.value.coders["coder"]
    assert coder.metadata["tokens"] == 96
    assert coder.history is not None and coder.history.tokens.tolist() == [32, 64, 96]
    saved = interp.load_coder(tmp_path / "step-00000003" / "coders" / "coder")
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in coder.state_dict().items())
    # the same coder trained on activations of unit scale has the same function, ten times smaller
    with pytest.raises(TrainingInterrupted) as scaled:
        rows = draw_rows().x * 10
        train_coder(TOPK, rows, callbacks=[send(signal.SIGINT)], progress=False, **LONG)
    x = draw_rows(seed=8).x
    torch.testing.assert_close(scaled.value.coders["coder"](10 * x), 10 * coder(x), rtol=1e-4, atol=1e-3)
    ended = train_coder(TOPK, draw_rows(), checkpoint=tmp_path, progress=False, **LONG)
    whole = train_coder(TOPK, draw_rows(), progress=False, **LONG)
    assert differences({"a": whole}, {"a": ended}) == []


def test_sigterm_exits_with_143_and_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        train_coder(
            TOPK, draw_rows(), checkpoint=tmp_path, callbacks=[send(signal.SIGTERM)], progress=False, **LONG
        )
    assert caught.value.code == 143
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000003"]


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train_coder(
            TOPK,
            draw_rows(),
            checkpoint=tmp_path,
            callbacks=[send(signal.SIGINT, signal.SIGINT)],
            progress=False,
            **LONG,
        )
    assert not isinstance(caught.value, TrainingInterrupted)
    assert not list(tmp_path.glob("step-*"))


def test_signals_before_the_first_step_act_at_once() -> None:
    class Slow(Untold):
        def __init__(self, number: signal.Signals) -> None:
            super().__init__(draw_rows())
            self.next_chunk = lambda: signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        train_coder(TOPK, Slow(signal.SIGINT), progress=False, **LONG)
    with pytest.raises(SystemExit) as caught:
        train_coder(TOPK, Slow(signal.SIGTERM), progress=False, **LONG)
    assert caught.value.code == 143


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_interrupt_of_the_sources_own(in_thread: bool, tmp_path: Path) -> None:
    class Interrupted(Untold):
        def __init__(self) -> None:
            super().__init__(interp.coders.sources.tensor_activations(draw_rows(), chunk_rows=40))
            self.left = 6
            self.next_chunk = self._next

        def _next(self) -> Any:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return self.source.next_chunk()

    caught: list[BaseException] = []

    def go() -> None:
        try:
            train_coder(TOPK, Interrupted(), checkpoint=tmp_path, checkpoint_every=2, progress=False, **SHORT)
        except BaseException as error:
            caught.append(error)

    if in_thread:
        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
    else:
        go()
    (error,) = caught
    assert isinstance(error, TrainingInterrupted) and "in its source" in str(error)
    assert error.coders["coder"].metadata["tokens"] > 0
    # the checkpoint of before was not touched, and training goes on from there
    (last,) = tmp_path.glob("step-*")
    assert int(last.name.removeprefix("step-")) % 2 == 0
    rows = interp.coders.sources.tensor_activations(draw_rows(), chunk_rows=40)
    ended = train_coder(TOPK, Untold(rows), checkpoint=tmp_path, checkpoint_every=2, progress=False, **SHORT)
    whole = train_coder(TOPK, Untold(draw_rows()), checkpoint_every=2, progress=False, **SHORT)
    assert differences({"a": whole}, {"a": ended}) == []


def test_a_thread_trains_too() -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(train_coder(TOPK, draw_rows(), progress=False, **LONG))
    )
    thread.start()
    thread.join()
    whole = train_coder(TOPK, draw_rows(), progress=False, **LONG)
    assert differences({"a": whole}, {"a": found[0]}) == []


def test_a_callback_may_stop_training(tmp_path: Path) -> None:
    def enough(history: CoderHistory) -> None:
        if len(history) == 4:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted) as caught:
        train_coder(TOPK, draw_rows(), callbacks=[enough], progress=False, **LONG)
    assert caught.value.coders["coder"].metadata["steps"] == 4


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train_coder(TOPK, draw_rows(), callbacks=[send(signal.SIGINT)], progress=False, **LONG)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_callbacks_are_told_every_point_and_may_finish() -> None:
    class Told:
        def __init__(self) -> None:
            self.points: list[int] = []
            self.finished = 0

        def __call__(self, history: CoderHistory) -> None:
            self.points.append(int(history.tokens[-1]))

        def finish(self) -> None:
            self.finished += 1

    told = Told()
    coder = train_coder(TOPK, draw_rows(), callbacks=[told], progress=False, **{**SHORT, "log_every": 5})
    # 350 rows in batches of 32: the last of 30
    assert told.points == [160, 320, 350] and told.finished == 1
    assert coder.history is not None and coder.history.tokens.tolist() == told.points


def test_callbacks_get_curves_that_plot() -> None:
    coder = train_coder(
        CoderConfig("standard", d_sae=24),
        draw_rows(),
        callbacks=[LiveCurves()],
        progress=False,
        **SHORT,
    )
    assert coder.history is not None
    assert {"loss", "loss:reconstruction", "loss:sparsity", "l0", "fvu", "dead_frac"} <= set(
        coder.history.curves
    )
    assert len(coder.history.plot().data) > 3


def test_tensorboard_gets_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[str, int]] = []
    closed: list[bool] = []

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None: ...
        def add_scalar(self, name: str, value: float, step: int) -> None:
            rows.append((name, step))

        def flush(self) -> None: ...
        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("interp.coders.train.tensorboard._writer_class", lambda: Writer)
    train_coder(
        TOPK, draw_rows(), callbacks=[TensorBoardLog(tmp_path)], progress=False, **{**SHORT, "log_every": 5}
    )
    assert [step for name, step in rows if name == "loss/reconstruction"] == [160, 320, 350]
    assert closed == [True]


def test_an_error_of_a_callback_costs_no_step(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        train_coder(TOPK, draw_rows(), checkpoint=tmp_path, callbacks=[StopAt(5)], progress=False, **LONG)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000005"]


def test_a_diverged_training_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    rows = draw_rows(n=640)
    x = rows.x.clone()
    # beyond the rows that are looked at first
    x[500] = float("nan")
    options = {**SHORT, "buffer_rows": 32, "checkpoint_every": 4}
    with pytest.raises(CoderError, match=r"step 15 got activations that are not finite: in x, 1 of 32 rows"):
        train_coder(TOPK, x, checkpoint=tmp_path, progress=False, **options)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000012"]
    coder = interp.load_coder(tmp_path / "step-00000012" / "coders" / "coder")
    assert all(bool(value.isfinite().all()) for value in coder.state_dict().values())


def test_half_precision_rows_train_in_single(tmp_path: Path) -> None:
    x = draw_rows().x.bfloat16()
    coder = train_coder(TOPK, x, progress=False, **SHORT)
    same = train_coder(TOPK, x.float(), progress=False, **SHORT)
    assert coder.W_enc.dtype == torch.float32
    assert differences({"a": coder}, {"a": same}) == []
