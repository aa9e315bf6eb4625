"""Thresholds, areas and rates against counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from interp.errors import SteeringError
from interp.steering.monitor.threshold import conformal_threshold, measure_auc, measure_rate

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8)


@given(SCORES, SCORES)
def test_auc_is_the_mann_whitney_statistic(p, n):
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(p, n)]
    found = measure_auc(torch.tensor(p), torch.tensor(n), seed=1)
    assert found.value == pytest.approx(np.mean(pairs))
    assert 0 <= found.low <= found.high <= 1


def test_resamples_count_ties_half_too():
    found = measure_auc(torch.ones(5), torch.ones(7))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    parted = measure_auc(torch.ones(5), torch.zeros(7))
    assert (parted.value, parted.low, parted.high) == (1.0, 1.0, 1.0)


def test_the_interval_of_an_auc_covers_the_truth():
    # two normal distributions 1 apart: AUC = Phi(1 / sqrt 2)
    truth = 0.5 * (1 + math.erf(0.5))
    draw = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(60):
        p, n = torch.randn(40, generator=draw) + 1, torch.randn(40, generator=draw)
        found = measure_auc(p, n, confidence=0.9)
        covered += found.low <= truth <= found.high
    assert 0.75 <= covered / 60 <= 1.0


@given(st.integers(1, 200), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
def test_the_threshold_is_the_right_order_statistic(n, rate):
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(n)).double()
    wanted = math.ceil(round((n + 1) * (1 - rate), 9))
    if wanted > n:
        with pytest.raises(SteeringError, match="at least"):
            conformal_threshold(scores, rate)
    else:
        assert conformal_threshold(scores, rate) == wanted - 1


@pytest.mark.parametrize("n, rate", [(19, 0.05), (60, 0.1), (9, 0.1)])
def test_the_rate_holds_on_fresh_scores(n, rate):
    """Over draws of the calibration set, the expected rate is at most the one asked for, and near it."""
    draw = torch.Generator().manual_seed(3)
    rates = []
    for _ in range(2000):
        threshold = conformal_threshold(torch.rand(n, generator=draw, dtype=torch.float64), rate)
        # of uniform scores the chance to lie above is known
        rates.append(1 - threshold)
    exact = (n + 1 - math.ceil((n + 1) * (1 - rate) - 1e-9)) / (n + 1)
    assert exact <= rate + 1e-9
    assert np.mean(rates) == pytest.approx(exact, abs=4 * np.std(rates) / 2000**0.5)


def test_ties_are_not_above():
    threshold = conformal_threshold(torch.ones(30), 0.1)
    assert threshold == 1.0
    assert not (torch.ones(5) > threshold).any()


@pytest.mark.parametrize("flagged, n", [(0, 20), (3, 20), (20, 20), (1, 1)])
def test_the_interval_of_a_rate_is_exact(flagged, n):
    found = measure_rate(flagged, n, 0.9)
    assert found.value == flagged / n
    if flagged:
        assert binom.sf(flagged - 1, n, found.low) == pytest.approx(0.05)
    if flagged < n:
        assert binom.cdf(flagged, n, found.high) == pytest.approx(0.05)
    assert (found.low == 0) == (flagged == 0) and (found.high == 1) == (flagged == n)


def test_refusals():
    with pytest.raises(SteeringError, match="at least 19 negative prompts"):
        conformal_threshold(torch.rand(18), 0.05)
    conformal_threshold(torch.rand(19), 0.05)
    with pytest.raises(SteeringError, match="NaN"):
        conformal_threshold(torch.tensor([0.0, float("nan")]), 0.5)
    for rate in (0.0, 1.0, -1.0):
        with pytest.raises(SteeringError, match="between 0 and 1"):
            conformal_threshold(torch.rand(50), rate)
