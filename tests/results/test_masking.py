"""Checks of a ranking by masking."""

from __future__ import annotations

import pytest
import torch

from interp.errors import RecordError
from interp.results import Estimate, MaskingCheck, Provenance


def make(**changes):
    fields = dict(
        what="tokens",
        fractions=(0.1, 0.5),
        most=torch.tensor([[4.0, 2.0], [5.0, 5.0]]),
        least=torch.tensor([[1.0, 1.0], [5.0, 4.0]]),
        random=torch.tensor([[[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], [[3.0, 5.0], [4.0, 4.0], [5.0, 3.0]]]),
        gaps=(Estimate(2.0, 1.0, 3.0), Estimate(0.5, 0.0, 1.0)),
        confidence=0.95,
        provenance=Provenance("m", method="relevance", ablation="zero"),
    )
    return MaskingCheck(**fields | changes)


def test_holds_where_the_interval_lies_above_0():
    assert make().holds == (True, False)
    undefined = Estimate(*[float("nan")] * 3)
    assert make(gaps=(undefined, Estimate(1.0, 0.001, 2.0))).holds == (False, True)


def test_summary_says_where_nothing_was_shown():
    assert make().summary() == (
        "damage of the first minus the last tokens: 10%: 2.00 [1.00, 3.00], 50%: 0.50 [0.00, 1.00] "
        "(no difference shown)"
    )


def test_file_and_frame(tmp_path):
    check = make()
    read = MaskingCheck.load(check.save(tmp_path / "m"))
    assert read.gaps == check.gaps
    assert read.to_frame().equals(check.to_frame())
    frame = check.to_frame()
    assert list(frame["most"]) == [3.0, 5.0]
    assert list(frame["least"]) == [1.0, 4.5]
    assert list(frame["random"]) == [2.0, 4.0]
    assert list(frame["holds"]) == [True, False]


def test_refusals():
    with pytest.raises(RecordError, match="1 gaps for 2 fractions"):
        make(gaps=(Estimate(1.0, 0.0, 2.0),))
    with pytest.raises(RecordError, match=r"most must be \[fraction=2, prompt\]"):
        make(most=torch.zeros(3, 2))
    with pytest.raises(RecordError, match=r"random must be \[fraction=2, draw, prompt=2\]"):
        make(random=torch.zeros(2, 3, 5))
    with pytest.raises(RecordError, match="0 gaps for 0 fractions"):
        make(
            fractions=(),
            gaps=(),
            most=torch.zeros(0, 2),
            least=torch.zeros(0, 2),
            random=torch.zeros(0, 1, 2),
        )
