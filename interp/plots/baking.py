"""Baked beside hooked steering, and abstaining: what is made up against what is still known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import CHARACTER, TICK_SIZE, Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.baking import BAKE_PAIRS, AbstentionReport, BakeReport

EXACT = 1e-4
"""Logits that agree to this are the same for all uses; a line in the figure."""
_FLOOR = 1e-9
"""Differences from here down, 0 among them, are drawn at the edge."""
_LONGEST = 30
_PITCH, _WIDTH = 40, 330
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_PAIR_COLORS = (BLUE, GREY, LINES[1])
_SIDE = 380


def plot_bake_report(found: BakeReport) -> go.Figure:
    """Draw how far every baking's logits are from the hooks', and the KLs between baked, hooked and unsteered.

    Both axes are logarithmic; what is 0 or nearly stands at the left edge. A dashed line marks 1e-4.
    """
    sheet = Sheet()
    n = len(found.names)
    names = [shorten(name, _LONGEST) for name in found.names]
    left = round(max(map(len, names)) * TICK_SIZE * CHARACTER + 18)
    panel = sheet.add_panel("logits, baked to hooked", _WIDTH, n * _PITCH, left=left, bottom=46)
    panel.legend, panel.legend_lines = "legend", 2
    for name, values, symbol, color in (
        ("largest difference", to_array(found.largest), "circle", BLUE),
        ("mean difference", to_array(found.mean), "diamond", GREY),
    ):
        ends = np.stack([values] * 3, axis=-1)
        _add_marks(sheet, panel, names, ends, name, (symbol, color, "legend"), 0.0)
    sheet.figure.add_trace(
        go.Scatter(
            x=[EXACT, EXACT],
            y=[-0.5, n - 0.5],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            hoverinfo="skip",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    _write_axes(sheet, panel, names, "absolute difference of a logit", found.largest.max().item())
    second = sheet.add_panel("KL, nats a token", _WIDTH, n * _PITCH, left=24, bottom=46)
    second.legend, second.legend_lines = "legend2", len(BAKE_PAIRS)
    for j, pair in enumerate(BAKE_PAIRS):
        style = (_SYMBOLS[j], _PAIR_COLORS[j], "legend2")
        _add_marks(sheet, second, names, to_array(found.kl[:, j]), pair, style, 0.22 * (j - 1))
    _write_axes(sheet, second, [""] * n, "nats a token", found.kl.max().item())
    sheet.add_note(f"{found.n_tokens:,} tokens; lines: {found.confidence:.0%} bootstrap intervals over rows")
    sheet.add_note(f"dashed: {EXACT:g}; at the left edge: {_FLOOR:g} or less")
    return sheet.finish("Baked beside hooked steering", found.provenance.summary())


def _add_marks(
    sheet: Sheet,
    panel: Panel,
    names: list[str],
    ends: NDArray[np.floating[Any]],
    name: str,
    style: tuple[str, str, str],
    shift: float,
) -> None:
    """Value, low and high of every baking, a row each."""
    symbol, color, legend = style
    shown = np.maximum(ends, _FLOOR)
    value, low, high = shown.T
    sheet.figure.add_trace(
        go.Scatter(
            x=value.tolist(),
            y=[i + shift for i in range(len(names))],
            mode="markers",
            marker=dict(size=9, symbol=symbol, color=color),
            error_x=dict(
                type="data",
                symmetric=False,
                array=np.maximum(high - value, 0).tolist(),
                arrayminus=np.maximum(value - low, 0).tolist(),
                color=color,
                thickness=1.2,
                width=0,
            ),
            name=name,
            hovertext=[
                f"<b>{escape_text(baking)}</b><br>{name} {row[0]:.3g}"
                + (f" [{row[1]:.3g}, {row[2]:.3g}]" if row[1] != row[2] else "")
                for baking, row in zip(names, ends, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=True,
            legend=legend,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _write_axes(sheet: Sheet, panel: Panel, names: list[str], title: str, largest: float) -> None:
    number, n = panel.xaxis[1:], len(names)
    top = max(0.0, math.log10(max(largest, _FLOOR)))
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        title,
        type="log",
        range=[math.log10(_FLOOR) - 0.3, top + 0.3],
        tickvals=[10.0**power for power in range(-9, math.ceil(top) + 1, 3)],
        ticktext=[f"1e{power}" if power else "1" for power in range(-9, math.ceil(top) + 1, 3)],
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[n - 0.5, -0.5],
        tickvals=list(range(n)),
        ticktext=[escape_text(name) for name in names],
        zeroline=False,
        showgrid=False,
        ticks="outside",
        ticklen=4,
        tickcolor="rgba(0,0,0,0)",
    )


def plot_abstention(found: AbstentionReport) -> go.Figure:
    """Draw what is made up about the unseen against what is known right, a mark a setting.

    Best is the corner at the top left: nothing made up, all known.
    """
    sheet = Sheet()
    panel = sheet.add_panel("", _SIDE, _SIDE, left=62, bottom=48, top=12)
    groups = list(dict.fromkeys(found.groups))
    made_up, known = to_array(found.made_up), to_array(found.known)
    for order, group in enumerate(groups):
        rows = [i for i, one in enumerate(found.groups) if one == group]
        color = LINES[order % len(LINES)]
        bars = {
            f"error_{axis}": dict(
                type="data",
                symmetric=False,
                array=np.nan_to_num(np.maximum(ends[rows, 2] - ends[rows, 0], 0)).tolist(),
                arrayminus=np.nan_to_num(np.maximum(ends[rows, 0] - ends[rows, 1], 0)).tolist(),
                color=color,
                thickness=1,
                width=0,
            )
            for axis, ends in (("x", made_up), ("y", known))
        }
        sheet.figure.add_trace(
            go.Scatter(
                x=made_up[rows, 0].tolist(),
                y=known[rows, 0].tolist(),
                mode="markers",
                marker=dict(
                    size=10,
                    symbol=_SYMBOLS[(order + order // len(LINES)) % len(_SYMBOLS)],
                    color=color,
                    opacity=0.85,
                    line=dict(color="white", width=1),
                ),
                name=escape_text(shorten(group, _LONGEST)),
                hovertext=[
                    f"<b>{escape_text(found.names[i])}</b><br>{escape_text(group)}<br>made up {made_up[i, 0]:.3f} "
                    f"[{made_up[i, 1]:.3f}, {made_up[i, 2]:.3f}]<br>known right {known[i, 0]:.3f} "
                    f"[{known[i, 1]:.3f}, {known[i, 2]:.3f}]"
                    for i in rows
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=True,
                legend="legend",
                cliponaxis=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
                **bars,
            )
        )
    number = panel.xaxis[1:]
    for axis, title in (("xaxis", "made up about the unseen"), ("yaxis", "right about the known")):
        sheet.figure.layout[f"{axis}{number}"] = value_axis(title, range=[-0.03, 1.03], zeroline=False)
    sheet.add_legend([shorten(group, _LONGEST) for group in groups])
    sheet.add_note(f"lines: {found.interval}; best is the top left corner")
    return sheet.finish("Abstaining on what is not known", found.provenance.summary())
