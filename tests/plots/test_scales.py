"""Limits and colours."""

from __future__ import annotations

import numpy as np
import pytest

from interp.plots.scales import (
    BLUE,
    RED,
    WHITE,
    blend_sign,
    readable_ink,
    sequential_scale,
    sign_colors,
    signed_scale,
)


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


def test_blends_run_from_red_through_white_to_blue():
    shares = [-7.0, -1.0, -0.5, 0.0, 0.5, 1.0, 7.0]
    colors = [tuple(int(p) for p in blend_sign(share)[4:-1].split(",")) for share in shares]
    assert [blend_sign(share) for share in (-7.0, -1.0, 0.0, 1.0, 7.0)] == [RED, RED, WHITE, BLUE, BLUE]
    assert colors[2] == pytest.approx(((178 + 255) / 2, (24 + 255) / 2, (43 + 255) / 2), abs=0.51)
    assert colors[4] == pytest.approx(((33 + 255) / 2, (102 + 255) / 2, (172 + 255) / 2), abs=0.51)


def test_ink_is_dark_on_light_and_light_on_dark():
    light = ("rgb(255,255,255)", "rgb(255,255,0)", "rgb(190,190,190)", blend_sign(0.4), blend_sign(-0.4))
    assert {readable_ink(color) for color in light} == {"rgb(0,0,0)"}
    assert {readable_ink(color) for color in ("rgb(0,0,0)", "rgb(0,0,120)", RED, BLUE)} == {WHITE}
