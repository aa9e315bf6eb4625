"""Bootstrap intervals and areas, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.circuits.proof.faithfulness import FRACTIONS
from interp.circuits.proof.intervals import bootstrap_shares, integrate, percentiles, resampled_means
from interp.patching.agreement import N_RESAMPLES


def test_resampled_means_are_of_the_same_prompts_for_every_row():
    values = np.random.default_rng(0).normal(size=(3, 6))
    means = resampled_means(values, seed=4)
    picked = np.random.default_rng(4).integers(0, 6, (N_RESAMPLES, 6))
    assert means == pytest.approx(values[:, picked].mean(-1).T)


def test_shares_are_ratios_of_resampled_means():
    rng = np.random.default_rng(1)
    full, empty, rows = rng.normal(3, 1, 7), rng.normal(-1, 1, 7), rng.normal(1, 1, (2, 7))
    found = bootstrap_shares(*map(torch.from_numpy, (rows, full, empty)), seed=2)
    assert found.value == pytest.approx((rows.mean(1) - empty.mean()) / (full.mean() - empty.mean()))
    picked = np.random.default_rng(2).integers(0, 7, (N_RESAMPLES, 7))[5]
    gap = full[picked].mean() - empty[picked].mean()
    assert found.resamples[5] == pytest.approx((rows[:, picked].mean(1) - empty[picked].mean()) / gap)
    low, high = np.quantile(found.resamples[:, 1], (0.05, 0.95))
    interval = found.interval(1, 0.9)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_shares_without_a_gap_are_undefined():
    rows = torch.zeros(2, 3)
    found = bootstrap_shares(rows, torch.ones(3), torch.ones(3), seed=0)
    assert np.isnan(found.value).all()
    assert np.isnan(found.interval(0, 0.95).low)


def test_intervals_cover_as_often_as_they_say():
    """The metric of a circuit is 0.7 of the gap on average; noise over prompts is shared with the model."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        difficulty = rng.normal(2, 0.5, 40)
        full = difficulty + rng.normal(0, 0.1, 40)
        rows = (0.7 * difficulty + rng.normal(0, 0.3, 40))[None]
        found = bootstrap_shares(*map(torch.from_numpy, (rows, full, np.zeros(40))), seed=seed)
        interval = found.interval(0, 0.9)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.82 <= covered / 200 <= 0.96


def test_area_is_the_trapezoid_rule_over_the_share_asked_for():
    assert integrate(np.ones(10), FRACTIONS) == pytest.approx(0.999)
    assert integrate(np.array(FRACTIONS), FRACTIONS) == pytest.approx((1 - 0.001**2) / 2)
    assert integrate(np.array([[0.0, 1.0, 1.0]]), (0.1, 0.3, 0.4)) == pytest.approx([0.1 + 0.1])
    assert np.isnan(integrate(np.ones((2, 1)), (0.5,))).all()


def test_percentiles_leave_undefined_resamples_out():
    found = percentiles(0.5, np.array([0.0, np.nan, 1.0, np.inf]), 0.5)
    assert (found.low, found.high) == (0.25, 0.75)
    assert np.isnan(percentiles(np.nan, np.zeros(3), 0.5).low)
