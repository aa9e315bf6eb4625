"""Colour scales: diverging around 0 for signed values, sequential from 0 for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.colors import diverging, find_intermediate_color, sequential, unlabel_rgb

WHITE = "rgb(255,255,255)"
BLACK = "rgb(0,0,0)"
BLUE = "rgb(33,102,172)"
RED = "rgb(178,24,43)"
GREY = "rgb(120,120,120)"
FRAME = "rgb(205,205,205)"
MISSING = "rgb(190,190,190)"
"""Behind heatmaps: where a value is NaN."""
LINES = (BLUE, "rgb(230,140,20)", "rgb(60,145,80)", "rgb(135,80,160)", "rgb(150,95,60)", "rgb(80,80,80)")
"""Curves in one panel, in this order."""


@dataclass(frozen=True)
class ColorScale:
    """Colours and limits shared by the heatmaps of one band."""

    colors: tuple[str, ...]
    low: float
    high: float
    title: str
    ticks: tuple[tuple[float, str], ...] = ()
    """Value and text of each tick of the colour bar; empty leaves them to plotly."""

    def color_axis(self) -> dict[str, Any]:
        """A plotly ``coloraxis`` without the place of its colour bar."""
        last = len(self.colors) - 1
        scale = [[i / last, color] for i, color in enumerate(self.colors)]
        axis: dict[str, Any] = {"colorscale": scale, "cmin": self.low, "cmax": self.high}
        if self.low < 0:
            axis["cmid"] = 0.0
        return axis


def signed_scale(arrays: Iterable[NDArray[Any]], title: str) -> ColorScale:
    """Red (negative) to blue (positive), limits at plus and minus the largest magnitude of ``arrays``."""
    limit = largest_magnitude(arrays)
    return ColorScale(tuple(diverging.RdBu), -limit, limit, title)


def sequential_scale(arrays: Iterable[NDArray[Any]], title: str, high: float | None = None) -> ColorScale:
    """White to dark blue from 0 to ``high``, or to the largest value of ``arrays``."""
    limit = largest_magnitude(arrays) if high is None else high
    return ColorScale((WHITE, *sequential.Blues[1:]), 0.0, limit, title)


def sign_colors(values: Iterable[float]) -> list[str]:
    """Blue for every positive value, red for every negative one."""
    return [RED if value < 0 else BLUE for value in values]


def blend_sign(share: float) -> str:
    """Red at -1, white at 0, blue at 1, and in between; what lies outside is taken to the end.

    >>> blend_sign(0.0), blend_sign(1.0), blend_sign(-2.0) == RED
    ('rgb(255,255,255)', 'rgb(33,102,172)', True)
    """
    mixed = find_intermediate_color(WHITE, RED if share < 0 else BLUE, min(abs(share), 1.0), colortype="rgb")
    return f"rgb({','.join(str(round(part)) for part in unlabel_rgb(mixed))})"


def readable_ink(background: str) -> str:
    """Black or white, whichever stands out more (WCAG 2 contrast) on an ``rgb()`` colour.

    >>> readable_ink(WHITE), readable_ink(BLUE)
    ('rgb(0,0,0)', 'rgb(255,255,255)')
    """
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in unlabel_rgb(background))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else WHITE


def largest_magnitude(arrays: Iterable[NDArray[Any]]) -> float:
    """The largest finite magnitude; 1 where everything is 0 or missing, for limits must differ."""
    finite = [np.abs(a[np.isfinite(a)]) for a in arrays]
    return max((float(a.max()) for a in finite if a.size), default=0.0) or 1.0
