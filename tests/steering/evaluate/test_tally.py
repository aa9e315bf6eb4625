"""Ratios of sums and their intervals, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interp.errors import SteeringError
from interp.steering.evaluate.tally import Bootstrap, Tally


def tally(part, whole=None):
    part = torch.tensor(part)
    return Tally.of(part, torch.ones_like(part) if whole is None else torch.tensor(whole))


def test_a_value_is_the_ratio_of_sums_and_the_mean_over_draws():
    one, other = tally([1.0, 2.0, 0.0], [2.0, 2.0, 0.0]), tally([0.0, 1.0, 1.0], [1.0, 2.0, 1.0])
    assert one.value == pytest.approx(3 / 4)
    assert Tally.joined([one, other]).value == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert math.isnan(tally([0.0, 0.0], [0.0, 0.0]).value)
    # a draw with nothing to count is left out
    assert Tally.joined([one, tally([0.0] * 3, [0.0] * 3)]).value == pytest.approx(3 / 4)


def test_intervals_are_those_of_a_loop_over_resamples():
    draw = torch.Generator().manual_seed(0)
    part, whole = torch.rand(3, 20, generator=draw).double(), 1 + torch.rand(3, 20, generator=draw).double()
    found = Tally(part, whole)
    boot = Bootstrap(0.9, seed=5)
    value, low, high = boot.level(found)
    units, draws = boot._drawn("units", 20), boot._drawn("draws", 3)
    assert (units.sum(1) == 20).all() and (draws.sum(1) == 3).all()
    loop = []
    for counts, weights in zip(units, draws, strict=True):
        ratios = [
            sum(c * p for c, p in zip(counts, part[k].tolist(), strict=True))
            / sum(c * w for c, w in zip(counts, whole[k].tolist(), strict=True))
            for k in range(3)
        ]
        loop.append(sum(w * r for w, r in zip(weights, ratios, strict=True)) / 3)
    assert value == pytest.approx(found.value)
    assert (low, high) == pytest.approx(tuple(np.quantile(loop, (0.05, 0.95))))


def test_a_mean_has_about_the_interval_of_the_normal_law():
    x = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    _, low, high = Bootstrap(0.95).level(Tally.of(x, torch.ones(400)))
    half = 1.96 * float(x.std()) / 20
    assert low == pytest.approx(float(x.mean()) - half, abs=0.15 * half)
    assert high == pytest.approx(float(x.mean()) + half, abs=0.15 * half)


def test_differences_are_of_pairs():
    x = torch.randn(50, generator=torch.Generator().manual_seed(2)).double()
    one, other = Tally.of(x + 0.25, torch.ones(50)), Tally.of(x, torch.ones(50))
    boot = Bootstrap()
    assert boot.difference(one, other) == pytest.approx((0.25, 0.25, 0.25))
    assert boot.level(one)[2] - boot.level(one)[1] > 0.3
    with pytest.raises(SteeringError, match="same units"):
        boot.difference(one, tally([1.0, 2.0]))


def test_draws_of_controls_widen_an_interval():
    rows = torch.full((1, 30), 0.5).double()
    draws = torch.cat([rows - 0.4, rows, rows + 0.4])
    value, low, high = Bootstrap().level(Tally(draws, torch.ones(3, 30).double()))
    # prompts are all alike: what is left is the spread of three draws
    assert value == pytest.approx(0.5)
    assert low == pytest.approx(0.5 - 0.4, abs=0.14) and high == pytest.approx(0.5 + 0.4, abs=0.14)


def test_nothing_counted_and_bad_confidence():
    value, low, high = Bootstrap().level(tally([0.0, 0.0], [0.0, 0.0]))
    assert math.isnan(value) and math.isnan(low) and math.isnan(high)
    for bad in (0.0, 1.0, 95.0):
        with pytest.raises(SteeringError, match="between 0 and 1"):
            Bootstrap(bad)


def test_as_many_draws_as_units_are_resampled_apart():
    """One draw a unit that alone holds something: were both resampled alike, the diagonal would count squares."""
    n = 8
    square = Tally(torch.eye(n).double(), torch.ones(n, n).double())
    boot = Bootstrap()
    found = boot._resampled(square)
    # the product of independent counts has the mean 1, the square of one count 2 - 1 / n
    assert float(found.mean()) == pytest.approx(1 / n, rel=0.1)
