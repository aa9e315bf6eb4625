"""Average precision and AUC of many units at once, against definitions written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import SteeringError
from interp.steering.extract.detection import average_precision, roc_area


def naive_precision(scores: list[float], answers: list[bool]) -> float:
    """Recall gained at every distinct score, times the precision there."""
    found, before = 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        taken = [y for s, y in zip(scores, answers, strict=True) if s >= cut]
        recall = sum(taken) / sum(answers)
        found += (recall - before) * sum(taken) / len(taken)
        before = recall
    return found


def naive_area(scores: list[float], answers: list[bool]) -> float:
    pairs = [
        (a > b) + (a == b) / 2
        for a, yes in zip(scores, answers, strict=True)
        for b, other in zip(scores, answers, strict=True)
        if yes and not other
    ]
    return sum(pairs) / len(pairs)


@st.composite
def ranked_rows(draw):
    n, units = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    answers = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)))
    # few levels: ties everywhere
    row = st.lists(st.integers(-2, 2), min_size=units, max_size=units)
    return torch.tensor(draw(st.lists(row, min_size=n, max_size=n))).float(), answers


@given(ranked_rows())
def test_both_equal_their_definitions_with_ties(case):
    scores, answers = case
    precision, area = (f(scores, torch.tensor(answers)) for f in (average_precision, roc_area))
    for unit, column in enumerate(scores.T.tolist()):
        assert float(precision[unit]) == pytest.approx(naive_precision(column, answers), abs=1e-12)
        assert float(area[unit]) == pytest.approx(naive_area(column, answers), abs=1e-12)


def test_what_says_nothing_is_chance_and_what_says_all_is_one():
    answers = torch.tensor([True, False, False, True, False])
    scores = torch.stack([torch.zeros(5), answers.float(), -answers.float()], dim=1)
    torch.testing.assert_close(roc_area(scores, answers), torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64))
    assert average_precision(scores, answers)[:2].tolist() == [0.4, 1.0]


def test_bad_rows_are_refused():
    for f in (average_precision, roc_area):
        with pytest.raises(SteeringError, match="3 of 3 are yes"):
            f(torch.ones(3, 2), torch.ones(3, dtype=torch.bool))
        with pytest.raises(SteeringError, match="NaN"):
            f(torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False]))
