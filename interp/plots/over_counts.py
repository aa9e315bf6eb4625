"""Small panels of curves over a number of latents, on one logarithmic axis and one scale of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.faithfulness import add_band, rgba
from interp.plots.scales import GREY
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text

WIDTH, HEIGHT = 190, 140


@dataclass(frozen=True)
class Curve:
    """Values over all counts, or a level: one value, drawn across."""

    name: str
    values: np.ndarray
    color: str
    dash: str = "solid"
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    level: bool = False


def add_curves(
    sheet: Sheet,
    title: str,
    ks: Sequence[int],
    curves: Sequence[Curve],
    limits: tuple[float, float],
    *,
    x_title: str,
    y_title: str = "",
    named: bool,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    unit: str = "latent",
) -> Panel:
    """A panel of curves; those of one name share a legend entry, which the ``named`` panel gives.

    ``unit`` is what is counted, for hovers.
    """
    panel = sheet.add_panel(title, *size, left=52, bottom=44)
    ends = (math.log10(ks[0]), math.log10(ks[-1]))
    air = 0.06 * (ends[1] - ends[0]) or 0.3
    for curve in curves:
        _add_curve(sheet, panel, ks, curve, named, (ends[0] - air, ends[1] + air), unit)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        x_title,
        type="log",
        range=[ends[0] - air, ends[1] + air],
        tickvals=list(ks),
        ticktext=[str(k) for k in ks],
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(y_title, range=list(limits), nticks=5)
    return panel


def _add_curve(
    sheet: Sheet,
    panel: Panel,
    ks: Sequence[int],
    curve: Curve,
    named: bool,
    ends: tuple[float, float],
    unit: str,
) -> None:
    level = curve.level
    x = [10 ** ends[0], 10 ** ends[1]] if level else list(ks)
    y = np.repeat(curve.values, 2) if level else curve.values
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legendgroup=escape_text(curve.name))
    if not level and curve.low is not None and curve.high is not None and len(ks) > 1:
        add_band(sheet, x, curve.low, curve.high, rgba(curve.color, 0.15), shared)
    texts = [
        f"<b>{escape_text(curve.name)}</b><br>"
        + ("" if level else f"{k} {unit}{'s' * (k > 1)}<br>")
        + f"{value:z.3f}"
        + _interval(curve, i, level)
        for i, (k, value) in enumerate(zip(x, y.tolist(), strict=True))
    ]
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y.tolist(),
            mode="lines" if level else "lines+markers",
            line=dict(color=curve.color, width=1.5 if level else 2, dash=curve.dash),
            marker=dict(size=5, color=curve.color),
            error_y=_whisker(curve) if len(ks) == 1 and not level else None,
            name=escape_text(curve.name),
            hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            showlegend=named,
            **shared,
        )
    )


def _interval(curve: Curve, i: int, level: bool) -> str:
    if level or curve.low is None or curve.high is None or not np.isfinite(curve.low[i]):
        return ""
    return f" [{curve.low[i]:z.3f}, {curve.high[i]:z.3f}]"


def _whisker(curve: Curve) -> dict[str, object] | None:
    if curve.low is None or curve.high is None:
        return None
    ends = dict(array=(curve.high - curve.values).tolist(), arrayminus=(curve.values - curve.low).tolist())
    return dict(type="data", symmetric=False, width=5, color=GREY, thickness=1) | ends


def shared_limits(
    curves: Sequence[Curve], least: float | None = None, most: float | None = None
) -> tuple[float, float]:
    """Limits that hold every curve and band, with some air, widened to ``least`` and ``most``."""
    parts = [part for c in curves for part in (c.values, c.low, c.high) if part is not None]
    values = np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(1)
    values = values[np.isfinite(values)]
    low, high = (
        values.min(initial=1.0 if least is None else least),
        values.max(initial=0.0 if most is None else most),
    )
    air = 0.04 * (high - low) or 0.1
    return float(low - air), float(high + air)
