"""Thresholds and rates, beside their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.steering.gated.rates import area, rate_above, threshold_at_best_f1

SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12).map(torch.tensor)


def f1(yes, no, threshold):
    hits, false = int((yes > threshold).sum()), int((no > threshold).sum())
    return 2 * hits / (hits + false + len(yes))


@given(SCORES, SCORES)
def test_no_threshold_has_a_better_f1(yes, no):
    found = threshold_at_best_f1(yes, no)
    every = [x + half for x in range(-6, 6) for half in (0.0, 0.5)]
    assert f1(yes, no, found) == pytest.approx(max(f1(yes, no, t) for t in every))


@given(SCORES, SCORES)
def test_the_area_counts_pairs(yes, no):
    pairs = (yes[:, None] > no).double() + 0.5 * (yes[:, None] == no).double()
    assert area(yes, no) == pytest.approx(float(pairs.mean()))


def test_a_share_and_its_interval():
    found = rate_above(torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.2)
    assert found.value == 0.5
    # Clopper and Pearson for 2 of 4
    assert (found.low, found.high) == (pytest.approx(0.0676, abs=1e-4), pytest.approx(0.9324, abs=1e-4))
