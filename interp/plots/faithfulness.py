"""Faithfulness of circuits over the number of their edges, with random circuits beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import GREY, LINES, RED
from interp.plots.sheet import TICK_SIZE, Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.faithfulness import Faithfulness, RandomCurve

_WIDTH, _HEIGHT = 700, 380
_NONE = 0.45
"""Where 0 edges stand on a logarithmic axis."""
_ASIDE = 1.04
_DASHES = {"connected": "dash", "uniform": "dot", "degree": "dashdot"}
_COLORS = (*LINES, "rgb(0,150,160)", "rgb(205,90,150)", "rgb(140,140,30)", RED)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon")
_LONGEST = 36


def plot_faithfulness(found: Faithfulness) -> go.Figure:
    """Draw faithfulness over the edges that circuits have once pruned: a line a method, with its band.

    Dashed lines are means of random circuits, with bands from the lowest to the highest draw; they stand
    at the number of edges drawn, of which the hover says how many were connected. Grey lines mark the
    whole model (1) and everything ablated (0). The legend gives CPR and CMD.
    """
    sheet = Sheet()
    panel = sheet.add_panel("", _WIDTH, _HEIGHT, left=66, right=20, top=10, bottom=48)
    panel.legend, panel.legend_lines = "legend", len(found.methods) + len(found.nulls)
    for place, curve in enumerate(found.nulls, start=1):
        _add_null(sheet, panel, found, curve, place)
    for row in range(len(found.methods)):
        _add_method(sheet, panel, found, row)
    counts = [*found.n_edges.flatten().tolist(), *(n for c in found.nulls for n in c.n_drawn)]
    _write_axes(sheet, panel, found, counts)
    add_levels(sheet, panel)
    _name_levels(sheet, panel)
    if len(found.fractions) > 1:
        sheet.add_note("CPR: area under f, CMD: area between f and 1, over the share of edges asked for")
    drawn = "bands" if len(found.fractions) > 1 else "whiskers"
    sheet.add_note(f"{drawn}: {found.confidence:.0%} bootstrap intervals over {len(found.full)} prompts")
    if found.nulls:
        sheet.add_note(f"of random circuits all {found.nulls[0].metric.shape[1]} draws")
    if 0 in found.n_edges:
        sheet.add_note("0 edges: none of those chosen lie on a way from input to logits")
    return sheet.finish("Faithfulness of circuits over the edges they have", found.provenance.summary())


def add_levels(sheet: Sheet, panel: Panel, axis: str = "y") -> None:
    """Lines across a panel at 1, the whole model, and at 0, everything ablated."""
    for level in (0, 1):
        across = dict(xref=f"{panel.xaxis} domain", yref=panel.yaxis, x0=0, x1=1, y0=level, y1=level)
        upright = dict(xref=panel.xaxis, yref=f"{panel.yaxis} domain", x0=level, x1=level, y0=0, y1=1)
        place = across if axis == "y" else upright
        sheet.figure.add_shape(
            type="line", line=dict(color=GREY, width=1, dash="solid"), layer="below", **place
        )


def _name_levels(sheet: Sheet, panel: Panel) -> None:
    for level, text in ((0, "everything ablated"), (1, "the whole model")):
        sheet.figure.add_annotation(
            text=text,
            x=0.005,
            y=level,
            xref=f"{panel.xaxis} domain",
            yref=panel.yaxis,
            xanchor="left",
            yanchor="bottom" if level else "top",
            showarrow=False,
            font=dict(size=TICK_SIZE, color=GREY),
        )


def rgba(color: str, opacity: float) -> str:
    """An ``rgb()`` colour made see-through.

    >>> rgba("rgb(1,2,3)", 0.5)
    'rgba(1,2,3,0.5)'
    """
    return f"rgba({color.removeprefix('rgb(').removesuffix(')')},{opacity:g})"


def _add_method(sheet: Sheet, panel: Panel, found: Faithfulness, row: int) -> None:
    name = found.methods[row]
    color = _color(row)
    x = _places(found.n_edges[row].tolist())
    values, low, high = (to_array(t[row]) for t in (found.values, found.low, found.high))
    metric = to_array(found.per_prompt.double().mean(-1)[row])
    unit = escape_text(found.provenance.metric or "metric")
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legendgroup=escape_text(name))
    if len(x) > 1:
        add_band(sheet, x, low, high, rgba(color, 0.15 if len(found.methods) <= 3 else 0.06), shared)
    label = escape_text(shorten(name, _LONGEST))
    if len(x) > 1:
        label = f"<b>{label}</b> · {found.describe_areas(name)}"
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=values,
            mode="lines+markers",
            line=dict(color=color, width=2),
            marker=dict(size=7, color=color, symbol=_SYMBOLS[row % len(_SYMBOLS)]),
            error_y=None
            if len(x) > 1
            else dict(type="data", symmetric=False, array=high - values, arrayminus=values - low, width=5),
            name=label,
            hovertext=[
                f"<b>{escape_text(name)}</b><br>{n:,} of {found.n_total:,} edges ({k:.3g} asked for)"
                f"<br>faithfulness {v:z.3f} [{a:z.3f}, {b:z.3f}]<br>{unit} {m:.4g}"
                for n, k, v, a, b, m in zip(
                    found.n_edges[row].tolist(), found.fractions, values, low, high, metric, strict=True
                )
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            legendrank=row,
            showlegend=True,
            cliponaxis=False,
            **shared,
        )
    )


def _add_null(sheet: Sheet, panel: Panel, found: Faithfulness, curve: RandomCurve, place: int) -> None:
    values = to_array(found.null_values(curve))
    x = _places(list(curve.n_drawn))
    if len(x) == 1:
        # whiskers of one size would stand on one another
        x = [x[0] * _ASIDE**place]
    color = GREY if curve.like is None else _color(found.at(curve.like))
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legendgroup=escape_text(curve.name))
    mean, low, high = values.mean(1), values.min(1), values.max(1)
    if len(x) > 1:
        add_band(sheet, x, low, high, rgba(color, 0.1), shared)
    label = escape_text(shorten(str(curve), _LONGEST + 30))
    if len(x) > 1:
        label += f" · {found.describe_areas(curve)}"
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=mean,
            mode="lines+markers",
            line=dict(color=color, width=1.5, dash=_DASHES.get(curve.kind, "dot")),
            marker=dict(size=4, color=color),
            error_y=None
            if len(x) > 1
            else dict(type="data", symmetric=False, array=high - mean, arrayminus=mean - low, width=5),
            name=label,
            hovertext=[
                f"<b>{escape_text(str(curve))}</b><br>{n:,} edges drawn, {c:.3g} of them connected"
                f"<br>faithfulness {m:z.3f}, from {a:z.3f} to {b:z.3f}"
                for n, c, m, a, b in zip(
                    curve.n_drawn, curve.n_edges.double().mean(1).tolist(), mean, low, high, strict=True
                )
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            legendrank=len(found.methods),
            showlegend=True,
            cliponaxis=False,
            **shared,
        )
    )


def add_band(
    sheet: Sheet, x: Sequence[float], low: np.ndarray, high: np.ndarray, color: str, shared: dict[str, Any]
) -> None:
    """Fill between two curves; says nothing where an end is missing."""
    there = np.isfinite(low) & np.isfinite(high)
    places = np.asarray(x)[there]
    sheet.figure.add_trace(
        go.Scatter(
            x=np.concatenate([places, places[::-1]]),
            y=np.concatenate([low[there], high[there][::-1]]),
            fill="toself",
            fillcolor=color,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )


def _write_axes(sheet: Sheet, panel: Panel, found: Faithfulness, counts: Sequence[int]) -> None:
    number = panel.xaxis[1:]
    top = max(counts)
    marks = [step * 10**power for power in range(math.ceil(math.log10(top + 1)) + 1) for step in (1, 2, 5)]
    marks = [mark for mark in marks if mark <= top]
    if top > 2000:
        marks = [mark for mark in marks if str(mark)[0] == "1"]
    texts = [f"{mark:,}" for mark in marks]
    if 0 in counts:
        marks, texts = [_NONE, *marks], ["0", *texts]
    first, last = min(_places(list(counts))), max(_places(list(counts)))
    if first == last:
        marks, texts = [first], [f"{top:,}"]
    air = max(0.04 * math.log10(last / first), 0.04) if first < last else 0.3
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        f"edges that circuits have (of {found.n_total:,})",
        type="log",
        range=[math.log10(first) - air, math.log10(last) + air],
        tickvals=marks,
        ticktext=texts,
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "faithfulness f", range=list(_limits(found)), zeroline=False
    )


def _limits(found: Faithfulness) -> tuple[float, float]:
    """All curves, 0 and 1, and of the bands what does not dwarf them."""
    drawn = [to_array(found.values).ravel(), *(to_array(found.null_values(c)).ravel() for c in found.nulls)]
    values = np.concatenate([[0.0, 1.0], *drawn])
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    bands = np.concatenate([to_array(found.low).ravel(), to_array(found.high).ravel()])
    bands = np.clip(bands[np.isfinite(bands)], low - 0.3, high + 0.3)
    low, high = min(low, bands.min(initial=low)), max(high, bands.max(initial=high))
    air = 0.05 * (high - low)
    return float(low - air), float(high + air)


def _places(counts: Sequence[int]) -> list[float]:
    return [max(float(count), _NONE) for count in counts]


def _color(row: int) -> str:
    return _COLORS[row % len(_COLORS)]
