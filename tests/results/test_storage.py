"""Files of records: whole or not at all, and never a pickle."""

from __future__ import annotations

import pickle
import stat

import pytest
import torch
from safetensors.torch import save_file

from interp.errors import DataFileError
from interp.results import storage
from interp.results.storage import load_record, save_record


@pytest.fixture
def saved(tmp_path):
    return save_record(
        tmp_path / "deep" / "r.safetensors", "Thing", {"a": torch.arange(3.0)}, {"x": [1, None]}
    )


def test_round_trip(saved):
    tensors, meta = load_record(saved, "Thing")
    assert list(tensors) == ["a"]
    assert torch.equal(tensors["a"], torch.arange(3.0))
    assert meta == {"x": [1, None]}


def test_views_of_one_array_and_no_tensor_at_all(tmp_path):
    whole = torch.randn(4, 5)
    path = save_record(tmp_path / "r", "Thing", {"whole": whole, "row": whole[1], "turned": whole.T}, {})
    tensors, _ = load_record(path, "Thing")
    assert torch.equal(tensors["turned"], whole.T)
    assert torch.equal(tensors["row"], whole[1])
    assert load_record(save_record(tmp_path / "empty", "Thing", {}, {"n": 1}), "Thing") == ({}, {"n": 1})


def test_others_may_read_it(saved):
    plain = saved.with_name("plain")
    plain.write_bytes(b"")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_record(saved, "Thing", {"a": torch.zeros(3)}, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_missing(tmp_path):
    with pytest.raises(DataFileError, match=r"no file at .*expected a saved Thing"):
        load_record(tmp_path / "absent", "Thing")


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_truncated(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(DataFileError, match="truncated"):
        load_record(saved, "Thing")


def test_pickle_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "r"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataFileError, match="pickles are refused"):
        load_record(path, "Thing")


def test_other_kinds(saved, tmp_path):
    with pytest.raises(DataFileError, match=r"holds a Thing record; expected Other\. .*Thing\.load"):
        load_record(saved, "Other")
    save_file({"a": torch.ones(2)}, tmp_path / "weights")
    with pytest.raises(DataFileError, match="not a record of this package"):
        load_record(tmp_path / "weights", "Thing")


@pytest.mark.parametrize("header", ["{", "[]", "3"])
def test_damaged_header(tmp_path, header):
    save_file({"a": torch.ones(2)}, tmp_path / "r", metadata={"interp": header})
    with pytest.raises(DataFileError, match="damaged header"):
        load_record(tmp_path / "r", "Thing")
