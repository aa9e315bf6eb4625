"""What circuits of several tasks share: tables of one cut, and overlap over all cuts against chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.errors import RecordError
from interp.plots.bars import value_axis
from interp.plots.heatmaps import (
    add_heatmap,
    axis_title,
    category_axis,
    fit_cell,
    label_room,
    name_ticks,
    to_array,
    two_decimals,
)
from interp.plots.scales import BLUE, GREY, sequential_scale
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.overlap import NULLS, CircuitOverlap

MOST_PAIRS = 12
"""Pairs whose overlap is drawn over all cuts; of more, those that share most at the cut shown."""
_NAMES = {"iou": "intersection over union", "coefficient": "overlap coefficient"}
_CHANCE = {"uniform": "chance, same sizes", "stratified": "chance, same sizes by layer and kind"}
_WIDTH, _HEIGHT, _ROW = 210, 150, 30
_LONGEST_NAME = 22
_TINY = 0.001


def plot_circuit_overlap(overlap: CircuitOverlap, cut: int | None = None) -> go.Figure:
    """Draw a circuit x circuit table of both measures at one cut, and below it overlap against chance.

    ``cut`` numbers the cut of the tables; by default the first at which no circuit is empty. Over several cuts
    every pair has a panel: intersection over union, the band of chance with as many items in every stratum,
    and the upper end of chance with sizes alone as a dashed line. Circuits that were given as they are
    have a row a pair. Raises :class:`RecordError` for a cut that is not there.
    """
    n = len(overlap.cuts)
    if cut is None:
        cut = next((i for i in range(n) if int(overlap.sizes[i].min()) > 0), n - 1)
    if not 0 <= cut < n:
        raise RecordError(f"there are cuts 0 to {n - 1} here; got {cut}.")
    sheet = Sheet()
    _add_tables(sheet, overlap, cut)
    sheet.start_band()
    if n == 1:
        _add_rows(sheet, overlap)
    else:
        _add_curves(sheet, overlap, cut)
    sheet.add_note(f"band: {overlap.confidence:.0%} of random {overlap.level}")
    sheet.add_note("overlap coefficient: the share of the smaller circuit that the other has, too")
    if bool(overlap.iou.isnan().any()):
        sheet.add_note("no value where both circuits are empty")
    of = f"{overlap.n_items:,} {overlap.level}"
    return sheet.finish(f"Overlap of {len(overlap.names)} circuits in {of}", overlap.provenance.summary())


def _add_tables(sheet: Sheet, overlap: CircuitOverlap, cut: int) -> None:
    """Both measures between every two circuits, on one colour scale from 0 to 1."""
    names = [shorten(name, _LONGEST_NAME) for name in overlap.names]
    sizes = overlap.sizes[cut].tolist()
    rows = name_ticks([f"{name} ({size})" for name, size in zip(names, sizes, strict=True)], "")
    columns = name_ticks(names, "")
    side = fit_cell(len(names), 360, 22, 84)
    tables = {measure: to_array(overlap.matrix(measure, cut)) for measure in _NAMES}
    color_axis = sheet.add_color_axis(sequential_scale([], "overlap", high=1.0))
    hovers = _describe_table(overlap, cut)
    for measure, table in tables.items():
        add_heatmap(
            sheet,
            _NAMES[measure],
            table,
            columns,
            rows,
            color_axis=color_axis,
            cell=(side, side),
            names=hovers,
            details=None,
            hover="%{hovertext}",
            top_down=True,
            cell_text=two_decimals(table) if side >= 30 else None,
        )
    sheet.add_note(f"tables: {overlap.cut_name(cut)}; in brackets how many {overlap.level} each has")


def _describe_table(overlap: CircuitOverlap, cut: int) -> list[list[str]]:
    n = len(overlap.names)
    sizes = overlap.sizes[cut].tolist()
    found = [
        [
            f"<b>{escape_text(name)}</b><br>{size} {overlap.level}"
            for name, size in zip(overlap.names, sizes, strict=True)
        ]
    ] * n
    rows = [list(row) for row in found]
    for pair, (i, j) in enumerate(overlap.pairs):
        rows[i][j] = rows[j][i] = _describe(overlap, cut, pair)
    return rows


def _describe(overlap: CircuitOverlap, cut: int, pair: int) -> str:
    i, j = overlap.pairs[pair]
    first, second = (escape_text(overlap.names[k]) for k in (i, j))
    lines = [
        f"<b>{first} and {second}</b>, {escape_text(overlap.cut_name(cut))}",
        f"{int(overlap.shared[cut, pair])} {overlap.level} shared of {int(overlap.sizes[cut, i])} and "
        f"{int(overlap.sizes[cut, j])}",
        f"intersection over union {float(overlap.iou[cut, pair]):.3f}, share of the smaller "
        f"{float(overlap.coefficient[cut, pair]):.3f}",
    ]
    for row, null in enumerate(NULLS):
        low, median, high = (
            int(part[row, cut, pair]) for part in (overlap.null_low, overlap.null_median, overlap.null_high)
        )
        p = float(overlap.p_values[row, cut, pair])
        said = f"{_TINY:g} or less" if p <= _TINY else f"{p:.2g}"
        lines.append(f"{_CHANCE[null]}: {median} shared ({low} to {high}), p = {said}")
    return "<br>".join(lines)


def _chosen(overlap: CircuitOverlap, cut: int) -> list[int]:
    """Pairs to draw, in their order."""
    share = np.nan_to_num(to_array(overlap.iou[cut]), nan=-1.0)
    return sorted(np.argsort(-share, kind="stable")[:MOST_PAIRS].tolist())


def _add_curves(sheet: Sheet, overlap: CircuitOverlap, cut: int) -> None:
    """A panel a pair, over all cuts."""
    pairs = _chosen(overlap, cut)
    if len(pairs) < len(overlap.pairs):
        sheet.add_note(f"{len(pairs)} of {len(overlap.pairs)} pairs over all cuts, those that share most")
    bands = {null: [to_array(part) for part in overlap.band("iou", null)] for null in NULLS}
    drawn = [to_array(overlap.iou)[:, pairs], *(part[:, pairs] for band in bands.values() for part in band)]
    highest = max((float(part[np.isfinite(part)].max(initial=0.0)) for part in drawn), default=0.0) or 1.0
    order = np.argsort(overlap.cuts, kind="stable")
    x = np.asarray(overlap.cuts)[order]
    for place, pair in enumerate(pairs):
        i, j = overlap.pairs[pair]
        title = " · ".join(shorten(overlap.names[k], 16) for k in (i, j))
        panel = sheet.add_panel(title, _WIDTH, _HEIGHT, left=56, bottom=46)
        first = place == 0
        low, _, high = (part[order, pair] for part in bands["stratified"])
        _add_band(sheet, panel, x, low, high, first)
        _add_line(
            sheet,
            panel,
            x,
            bands["uniform"][2][order, pair],
            "dash",
            _CHANCE["uniform"] + ", upper end",
            first,
        )
        hovers = [_describe(overlap, int(number), pair) for number in order]
        _add_observed(sheet, panel, x, to_array(overlap.iou)[order, pair], hovers, first)
        number = panel.xaxis[1:]
        sheet.figure.layout[f"xaxis{number}"] = _cut_axis(overlap, x)
        sheet.figure.layout[f"yaxis{number}"] = value_axis("IoU", range=[-0.04 * highest, 1.06 * highest])
    sheet.add_legend(["circuits", _CHANCE["stratified"], _CHANCE["uniform"] + ", upper end"])


def _cut_axis(overlap: CircuitOverlap, x: NDArray[np.float64]) -> dict[str, object]:
    """Shares and thresholds are drawn by their size on a log scale, each with its own tick."""
    low, high = math.log10(x[0]), math.log10(x[-1])
    air = max(0.05 * (high - low), 0.05)
    title = "share of all edges" if overlap.cut_by == "fraction" else "threshold, share of the gap"
    texts = [f"{100 * v:.3g}%" if overlap.cut_by == "fraction" else f"{v:.3g}" for v in x]
    return value_axis(
        title, type="log", range=[low - air, high + air], tickvals=x.tolist(), ticktext=texts, zeroline=False
    )


def _add_band(
    sheet: Sheet,
    panel: Panel,
    x: NDArray[np.float64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    first: bool,
) -> None:
    there = np.isfinite(low) & np.isfinite(high)
    x, low, high = x[there], low[there], high[there]
    sheet.figure.add_trace(
        go.Scatter(
            x=[*x, *x[::-1]],
            y=[*low, *high[::-1]],
            fill="toself",
            fillcolor="rgba(120,120,120,0.28)",
            line=dict(width=0),
            mode="lines",
            hoverinfo="skip",
            name=_CHANCE["stratified"],
            legendgroup="band",
            showlegend=first,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_line(
    sheet: Sheet,
    panel: Panel,
    x: NDArray[np.float64],
    y: NDArray[np.float32],
    dash: str,
    name: str,
    first: bool,
) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line=dict(color=GREY, width=1.2, dash=dash),
            hoverinfo="skip",
            name=name,
            legendgroup=name,
            showlegend=first,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_observed(
    sheet: Sheet,
    panel: Panel,
    x: NDArray[np.float64],
    y: NDArray[np.float32],
    hovers: Sequence[str],
    first: bool,
) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line=dict(color=BLUE, width=2),
            marker_size=6,
            hovertext=list(hovers),
            hovertemplate="%{hovertext}<extra></extra>",
            name="circuits",
            legendgroup="circuits",
            showlegend=first,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_rows(sheet: Sheet, overlap: CircuitOverlap) -> None:
    """A row a pair: the overlap as a dot, chance as bars behind it."""
    pairs = _chosen(overlap, 0)
    names = [
        " · ".join(shorten(overlap.names[k], _LONGEST_NAME) for k in overlap.pairs[pair]) for pair in pairs
    ]
    ticks = name_ticks(names, "", limit=2 * _LONGEST_NAME + 3)
    panel = sheet.add_panel(
        "against chance", 420, len(pairs) * _ROW, left=label_room(ticks, ticks, _ROW)["left"], bottom=46
    )
    for null, color, width in (("uniform", "rgb(205,205,205)", 12), ("stratified", GREY, 5)):
        low, median, high = (to_array(part)[0, pairs] for part in overlap.band("iou", null))
        sheet.figure.add_trace(
            go.Scatter(
                x=median,
                y=list(ticks.keys),
                mode="markers",
                marker=dict(color=color, symbol="line-ns", size=width + 4, line=dict(color=color, width=2)),
                error_x=dict(
                    type="data", symmetric=False, array=high - median, arrayminus=median - low, color=color,
                    thickness=width, width=0,
                ),
                name=_CHANCE[null],
                hoverinfo="skip",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )  # fmt: skip
    sheet.figure.add_trace(
        go.Scatter(
            x=to_array(overlap.iou)[0, pairs],
            y=list(ticks.keys),
            mode="markers",
            marker=dict(color=BLUE, size=10),
            name="circuits",
            hovertext=[_describe(overlap, 0, pair) for pair in pairs],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"yaxis{number}"] = category_axis(ticks, _ROW, reverse=True)
    sheet.figure.layout[f"xaxis{number}"] = value_axis(_NAMES["iou"], rangemode="tozero") | dict(
        title=axis_title(_NAMES["iou"])
    )
    sheet.add_legend([*_CHANCE.values(), "circuits"])
