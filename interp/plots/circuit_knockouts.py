"""Parts of a circuit knocked out: completeness as a scatter, minimality as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import ZERO, add_bars, value_axis
from interp.plots.faithfulness import add_levels
from interp.plots.heatmaps import name_ticks, to_array
from interp.plots.scales import BLUE, GREY, LINES, RED
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.circuit_knockouts import KINDS, Completeness, Minimality, name_some

_SIDE = 400
MOST_BARS = 40
_SAID = {
    "nothing": "nothing knocked out",
    "single": "one node",
    "random": "random nodes",
    "greedy": "greedily the worst",
    "group": "named groups",
}
_MARKS = {
    "nothing": ("star", "rgb(40,40,40)", 13),
    "single": ("circle", BLUE, 8),
    "random": ("circle-open", GREY, 7),
    "greedy": ("diamond", RED, 9),
    "group": ("square", LINES[2], 9),
}


def plot_completeness(found: Completeness) -> go.Figure:
    """Draw the faithfulness of the circuit (y) against that of the model (x), both without the same nodes.

    A point a set of nodes; a complete circuit has all of them on the diagonal. The worst is named.
    """
    sheet = Sheet()
    add_completeness(sheet, found, "", _SIDE)
    sheet.add_note(found.summary())
    sheet.add_note("0 = everything ablated, 1 = the whole model")
    return sheet.finish(
        "Completeness: the same nodes knocked out of circuit and model", found.provenance.summary()
    )


def add_completeness(
    sheet: Sheet, found: Completeness, title: str, side: int, legend: str = "legend"
) -> Panel:
    """The scatter as a panel of a sheet."""
    panel = sheet.add_panel(title, side, side, left=66, bottom=46)
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in found.sets)]
    panel.legend, panel.legend_lines = legend, len(kinds)
    circuit, model = (to_array(values) for values in found.faithfulness())
    shares = found.shares.tolist()
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis)
    low, high = _limits([0.0, 1.0, *circuit, *model])
    sheet.figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )
    for kind in sorted(kinds, key=lambda kind: kind == "nothing"):
        here = [i for i, one in enumerate(found.sets) if one.kind == kind]
        symbol, color, size = _MARKS[kind]
        sheet.figure.add_trace(
            go.Scatter(
                x=model[here],
                y=circuit[here],
                mode="markers",
                marker=dict(symbol=symbol, color=color, size=size, opacity=0.85),
                name=_SAID[kind],
                hovertext=[
                    f"<b>{escape_text(str(found.sets[i]))}</b><br>circuit {circuit[i]:z.3f}"
                    f"<br>model {model[i]:z.3f}<br>differ by {shares[i]:.1%} of the gap"
                    for i in here
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                legend=legend,
                legendrank=KINDS.index(kind),
                showlegend=True,
                cliponaxis=False,
                **shared,
            )
        )
    _name_worst(sheet, panel, found, float(model[found.worst]), float(circuit[found.worst]), (low + high) / 2)
    number = panel.xaxis[1:]
    for axis, what in (("x", "model"), ("y", "circuit")):
        sheet.figure.layout[f"{axis}axis{number}"] = value_axis(
            f"faithfulness of the {what} without them", range=[low, high], zeroline=False
        )
        add_levels(sheet, panel, axis)
    return panel


def _name_worst(sheet: Sheet, panel: Panel, found: Completeness, x: float, y: float, middle: float) -> None:
    if not np.isfinite([x, y]).all():
        return
    right = x < middle
    sheet.figure.add_annotation(
        x=x,
        y=y,
        text=escape_text(shorten(f"worst: {found.sets[found.worst]}", 34)),
        xref=panel.xaxis,
        yref=panel.yaxis,
        showarrow=True,
        arrowwidth=1,
        arrowhead=0,
        arrowcolor=ZERO,
        ax=26 if right else -26,
        ay=26 if y > middle else -26,
        xanchor="left" if right else "right",
        font=dict(size=11),
    )


def plot_minimality(found: Minimality) -> go.Figure:
    """Draw what each item adds to the circuit, the largest first; bars reach over all sets taken out beside it.

    Bars are blue for items that support the clean answer, red for those against it; a mark shows the change
    with nothing taken out beside. Of more than 40 items the 40 least needed are drawn.
    """
    sheet = Sheet()
    add_minimality(sheet, found, "", 420)
    if len(found.names) > MOST_BARS:
        sheet.add_note(f"the {MOST_BARS} least needed of {len(found.names)} {found.of}")
    sheet.add_note(found.summary())
    sheet.add_note("0 = nothing changes, 1 = from the whole model to everything ablated")
    if found.n_sets > 1:
        sheet.add_note("bar: the largest change beside any set of nodes taken out, mark: beside none")
    return sheet.finish(
        f"Minimality: what each of the circuit's {found.of} adds to it", found.provenance.summary()
    )


def add_minimality(sheet: Sheet, found: Minimality, title: str, length: int) -> Panel:
    """The bars as a panel of a sheet."""
    scores, changes = to_array(found.scores), to_array(found.changes)
    order = np.argsort(-np.nan_to_num(scores), kind="stable")[-MOST_BARS:]
    names = name_ticks([found.names[i] for i in order], "")
    hovers = [
        f"<b>{escape_text(found.names[i])}</b><br>changes the metric by {scores[i]:.1%} of the gap"
        + (f"<br>beside {escape_text(name_some(found.beside[i]))}" if found.beside[i] else "")
        + f"<br>alone by {changes[i]:+.1%}"
        for i in order
    ]
    panel = add_bars(
        sheet,
        title,
        names,
        scores[order].tolist(),
        hovers,
        value_title="change of the metric, as a share of the gap",
        horizontal=True,
        colors=[RED if changes[i] > 0 else BLUE for i in order],
        pitch=17,
        length=length,
        top_down=True,
    )
    if found.n_sets > 1:
        sheet.figure.add_trace(
            go.Scatter(
                x=np.abs(changes[order]),
                y=list(names.keys),
                mode="markers",
                marker=dict(symbol="line-ns", size=11, line=dict(color="rgb(40,40,40)", width=2)),
                hoverinfo="skip",
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    return panel


def _limits(values: Sequence[Any]) -> tuple[float, float]:
    finite = np.array(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
    air = 0.06 * (high - low)
    return low - air, high + air
