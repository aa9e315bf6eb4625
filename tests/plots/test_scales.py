"""Limits and colours."""

from __future__ import annotations

import numpy as np
import pytest

from interp.plots.scales import BLUE, RED, sequential_scale, sign_colors, signed_scale


def test_signed_limits_are_the_largest_magnitude_of_all():
    scale = signed_scale([np.array([[0.5, -2.0]]), np.array([1.0, np.nan, np.inf])], "t")
    assert (scale.low, scale.high) == (-2.0, 2.0)
    axis = scale.color_axis()
    assert axis["cmid"] == 0
    middle = axis["colorscale"][len(axis["colorscale"]) // 2]
    assert middle == [0.5, "rgb(247,247,247)"]


def test_sequential_starts_at_white_and_0():
    scale = sequential_scale([np.array([0.2, 0.7])], "t")
    assert (scale.low, scale.high) == (0.0, pytest.approx(0.7))
    assert scale.color_axis()["colorscale"][0] == [0.0, "rgb(255,255,255)"]
    assert sequential_scale([np.array([0.2])], "t", high=1.0).high == 1.0


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [np.nan]])
def test_limits_of_nothing_still_differ(values):
    assert signed_scale([np.array(values)], "t").high == 1.0
    assert sequential_scale([np.array(values)], "t").high == 1.0


def test_signs():
    assert sign_colors([1.0, -0.1, 0.0]) == [BLUE, RED, BLUE]
