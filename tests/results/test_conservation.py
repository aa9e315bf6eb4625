"""The account of relevance."""

from __future__ import annotations

import pytest
import torch

from interp.errors import RecordError
from interp.results import Conservation, Provenance


def make(**changes):
    fields = dict(
        cuts=("resid_pre[0]", "resid_post[0]"),
        relevance=torch.tensor([8.0, 3.0]),
        biases=torch.tensor([-2.0, 0.5]),
        attention=torch.tensor([3.0, 0.0]),
        output=3.0,
        provenance=Provenance("m", method="relevance:relp"),
    )
    return Conservation(**fields | changes)


def test_gaps():
    record = make()
    assert record.gaps.tolist() == [0.0, 0.5]
    assert record.largest_gap == 0.5 / 8.0
    nothing = dict.fromkeys(("relevance", "biases", "attention"), torch.zeros(2))
    assert make(output=0.0, **nothing).largest_gap == 0.0
    assert make(output=-10.0, **nothing).largest_gap == 1.0


@pytest.mark.parametrize("run", [None, "corrupted"])
def test_file_and_frame(tmp_path, run):
    record = make(run=run)
    read = Conservation.load(record.save(tmp_path / "c"))
    assert read.run == run
    assert read.to_frame().equals(record.to_frame())
    assert list(record.to_frame()) == ["cut", "relevance", "biases", "attention", "output", "gap"]


def test_refusals():
    with pytest.raises(RecordError, match=r"biases must be \[cut=2\]"):
        make(biases=torch.zeros(3))
    empty = dict.fromkeys(("relevance", "biases", "attention"), torch.zeros(0))
    with pytest.raises(RecordError, match="at least one cut"):
        make(cuts=(), **empty)
