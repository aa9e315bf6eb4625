"""The account of relevance at every depth of a network."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.bars import add_bars, value_axis
from interp.plots.heatmaps import Ticks, category_axis, fit_cell, label_room, name_ticks, turns_labels
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import INK, Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.conservation import Conservation

_HEIGHT, _GAP_HEIGHT = 300, 130
_LEAST = 0.01
"""Limit of the gap's axis, as a share of the largest amount: rounding must not look like a gap."""


def plot_conservation(record: Conservation) -> go.Figure:
    """Draw what adds up to the output at every cut: relevance, biases, and less what attention adds.

    Bars are stacked, upwards from 0 what is positive and downwards what is negative; a diamond marks
    their sum, which lies on the dashed line, the output, where the rules conserve. Below it the gap,
    sum less output, on an axis that reaches at least 1 % of the largest amount to either side.
    """
    sheet = Sheet()
    units = record.provenance.metric or "metric"
    names = name_ticks(record.cuts, "")
    pitch = max(fit_cell(len(names), 760, 16, 88), 320 / len(names))
    panel = sheet.add_panel("account", len(names) * pitch, _HEIGHT, **_room(names, pitch))
    sheet.add_legend(("relevance", "biases", "− attention", "output", "sum"))
    for name, values, color in (
        ("relevance", record.relevance, BLUE),
        ("biases", record.biases, LINES[1]),
        ("− attention", -record.attention, LINES[3]),
    ):
        sheet.figure.add_trace(
            go.Bar(
                x=list(names.keys),
                y=values.tolist(),
                marker=dict(color=color, line_width=0),
                **_traits(record, panel, name, values.tolist()),
            )
        )
    output = [record.output] * len(names)
    sheet.figure.add_trace(
        go.Scatter(
            x=list(names.keys),
            y=output,
            mode="lines",
            line=dict(color=INK, width=1.5, dash="dash"),
            **_traits(record, panel, "output", output),
        )
    )
    total = (record.gaps + record.output).tolist()
    diamond = dict(symbol="diamond", size=9, color="white", line=dict(color=INK, width=1.5))
    sheet.figure.add_trace(
        go.Scatter(
            x=list(names.keys),
            y=total,
            mode="markers",
            marker=diamond,
            **_traits(record, panel, "sum", total),
        )
    )
    sheet.figure.update_layout(barmode="relative")
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = category_axis(names, pitch) | dict(
        tickangle=-90 if turns_labels(names, pitch) else 0
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(shorten(units, 40))
    _add_gaps(sheet, record, names, pitch)
    sheet.add_note(f"largest gap: {record.largest_gap:.2g} of the largest amount in the account")
    rules = (record.provenance.method or "").partition(":")[2]
    of = [f"{record.run} prompts"] if record.run else []
    of += [f"rules {rules}"] if rules else []
    which = f": {', '.join(of)}" if of else ""
    return sheet.finish(
        f"Relevance added up at every cut of the residual stream{which}", record.provenance.summary()
    )


def _room(names: Ticks, pitch: float) -> dict[str, int]:
    return label_room(names, names, pitch) | {"left": 66}


def _traits(record: Conservation, panel: Panel, name: str, values: list[float]) -> dict[str, object]:
    """What all parts of the account share: name, legend, axes and hover."""
    return dict(
        name=name,
        legend="legend",
        showlegend=True,
        hovertext=[
            f"<b>{escape_text(cut)}</b><br>{name} {value:.4g}"
            for cut, value in zip(record.cuts, values, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        xaxis=panel.xaxis,
        yaxis=panel.yaxis,
    )


def _add_gaps(sheet: Sheet, record: Conservation, names: Ticks, pitch: float) -> None:
    sheet.start_band()
    gaps = record.gaps.tolist()
    panel = add_bars(
        sheet,
        "sum less output",
        names,
        gaps,
        [
            f"<b>{escape_text(cut)}</b><br>gap {gap:.3g}<br>output {record.output:.4g}"
            for cut, gap in zip(record.cuts, gaps, strict=True)
        ],
        value_title="gap",
        horizontal=False,
        colors=[GREY] * len(gaps),
        pitch=pitch,
        length=_GAP_HEIGHT,
    )
    amounts = [abs(x) for part in (record.relevance, record.biases, record.attention) for x in part.tolist()]
    largest = max(x for x in (*amounts, abs(record.output), 0.0) if x == x)
    limit = max((1.1 * abs(gap) for gap in gaps if gap == gap), default=0.0)
    limit = max(limit, _LEAST * largest) or 1.0
    sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].update(range=[-limit, limit], nticks=5)
