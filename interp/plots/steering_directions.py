"""Directions beside each other, and how near methods come to one that was planted."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.faithfulness import add_band, rgba
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.scales import BLUE, LINES, signed_scale
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.steering_directions import PlantedRecovery, SteeringDirections

_LONGEST = 30
_ROOM = 460
_SERIES = (("AUC on held-out prompts", BLUE, "circle"), ("stability", LINES[1], "diamond"))
_DASHES = ("solid", "dash", "dot", "dashdot")


def plot_steering_directions(found: SteeringDirections) -> go.Figure:
    """Draw cosines of all directions, and beside them the AUC and the stability of each, with intervals.

    Cells between different spaces are grey.
    """
    sheet = Sheet()
    z = to_array(found.cosines)
    n = len(found.methods)
    size = fit_cell(n, _ROOM, 17, 46)
    columns, rows = (name_ticks(found.names, "", limit=_LONGEST) for _ in range(2))
    names = [escape_text(name) for name in found.names]
    scale = signed_scale([np.ones(1)], "")
    panel = add_heatmap(
        sheet,
        "cosines",
        z,
        columns,
        rows,
        color_axis=sheet.add_color_axis(scale),
        cell=(size, size if size < 30 else min(size, 36)),
        names=[[_pair(a, b, z[i, j]) for j, b in enumerate(names)] for i, a in enumerate(names)],
        details=None,
        hover="%{hovertext}",
        top_down=True,
        cell_text=two_decimals(z) if size >= 30 else None,
    )
    _add_quality(sheet, panel, found, names)
    if not np.isfinite(z).all():
        sheet.add_note("grey: directions of different spaces have no cosine")
    sheet.add_note(
        f"lines: {found.confidence:.0%} intervals, of the AUC over held-out prompts, of the stability (cosine with "
        f"{found.n_bootstrap} refits on resampled prompts) quantiles of the refits"
    )
    return sheet.finish("Steering directions by extraction", found.provenance.summary())


def _pair(one: str, other: str, cosine: float) -> str:
    shown = "no cosine: different spaces" if np.isnan(cosine) else f"cosine {cosine:z.3f}"
    return f"<b>{one}</b><br><b>{other}</b><br>{shown}"


def _add_quality(sheet: Sheet, beside: Panel, found: SteeringDirections, names: list[str]) -> None:
    """AUC and stability, a line a direction, level with the rows of the heatmap."""
    n = len(names)
    panel = sheet.add_panel("", 250, beside.height, left=20, top=beside.top, bottom=44)
    for number, (values, (label, color, symbol)) in enumerate(
        zip((found.auc, found.stability), _SERIES, strict=True)
    ):
        value, low, high = to_array(values).T
        sheet.figure.add_trace(
            go.Scatter(
                x=value.tolist(),
                y=[i + (0.17 if number else -0.17) for i in range(n)],
                mode="markers",
                marker=dict(size=8, symbol=symbol, color=color),
                error_x=dict(
                    type="data",
                    symmetric=False,
                    array=(high - value).tolist(),
                    arrayminus=(value - low).tolist(),
                    color=color,
                    thickness=1.2,
                    width=0,
                ),
                name=label,
                hovertext=[
                    f"<b>{name}</b><br>{label} {v:.3f} [{a:.3f}, {b:.3f}]"
                    for name, v, a, b in zip(names, value, low, high, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                cliponaxis=False,
                showlegend=True,
                legend="legend",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    axis = panel.xaxis[1:]
    low = min(0.4, float(np.nanmin([to_array(found.auc).min(), to_array(found.stability).min()])))
    sheet.figure.layout[f"xaxis{axis}"] = value_axis(
        "AUC · cosine of refits", range=[max(0.0, low - 0.04), 1.02], zeroline=False
    )
    sheet.figure.layout[f"yaxis{axis}"] = value_axis(
        "", range=[n - 0.5, -0.5], showticklabels=False, zeroline=False, tickvals=list(range(n))
    )
    panel.legend, panel.legend_lines = "legend", 2


def plot_planted_recovery(found: PlantedRecovery) -> go.Figure:
    """Draw the cosine of every method with the planted direction over its length, with bands over seeds."""
    sheet = Sheet()
    panel = sheet.add_panel("", 460, 300, left=58, bottom=48, top=12)
    x = found.strengths.double().tolist()
    intervals = to_array(found.intervals())
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis)
    for number, method in enumerate(found.methods):
        color = LINES[number % len(LINES)]
        mean, low, high = intervals[number].T
        group = dict(shared, legendgroup=escape_text(method))
        if np.isfinite(low).all() and len(x) > 1:
            add_band(sheet, x, low, high, rgba(color, 0.14), group)
        sheet.figure.add_trace(
            go.Scatter(
                x=x,
                y=mean.tolist(),
                mode="lines+markers",
                line=dict(color=color, width=2, dash=_DASHES[number // len(LINES) % len(_DASHES)]),
                marker=dict(size=6, color=color),
                name=escape_text(method),
                hovertext=[
                    f"<b>{escape_text(method)}</b><br>{s:g} {escape_text(found.unit)}<br>abs cosine {m:.3f}"
                    + (f" [{a:.3f}, {b:.3f}]" if np.isfinite(a) else "")
                    for s, m, a, b in zip(x, mean, low, high, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=True,
                legend="legend",
                cliponaxis=False,
                **group,
            )
        )
    axis = panel.xaxis[1:]
    air = 0.04 * (x[-1] - x[0]) or 0.5
    sheet.figure.layout[f"xaxis{axis}"] = value_axis(
        f"length of the planted direction ({found.unit})", range=[x[0] - air, x[-1] + air], zeroline=False
    )
    sheet.figure.layout[f"yaxis{axis}"] = value_axis("abs cosine with it", range=[0, 1.02])
    sheet.add_legend(list(found.methods))
    n = found.cosines.shape[-1]
    sheet.add_note(
        f"{n} seed{'s' * (n > 1)}" + (f", bands: {found.confidence:.0%} t intervals" if n > 1 else "")
    )
    return sheet.finish("How near each extraction comes to a planted direction", found.provenance.summary())
