"""Approximate methods side by side: agreement with exact patching, seconds and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from interp.errors import RecordError, unknown_name
from interp.plots.bars import value_axis
from interp.plots.heatmaps import category_axis, label_room, name_ticks, turns_labels
from interp.plots.scales import GREY, LINES
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.agreement import Estimate
from interp.results.comparison import STATISTICS, MethodComparison, MethodCost, MethodRow

_NAMES = {
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "sign_agreement": "sign agreement",
    "top_overlap": "overlap of the top tenth",
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon")
_HEIGHT, _COST_WIDTH, _COST_ROW = 260, 320, 24
_LONGEST_MODEL, _LONGEST_TASK = 14, 18
_SPREAD = 0.8
"""Share of a case's room over which its methods stand."""


def plot_comparison(comparison: MethodComparison, statistic: str = "pearson") -> go.Figure:
    """Draw how well each method agrees with exact patching: a panel a site, points with intervals.

    Models and tasks stand along x, in each the methods side by side, told apart by colour and
    marker. The range is from 0, or the lowest interval where that is lower, to 1. Below it, a point a
    model and task: seconds of each method, exact patching among them, and peak memory where it was
    measured. Raises :class:`RecordError` for an unknown statistic.
    """
    if statistic not in STATISTICS:
        raise RecordError(unknown_name("statistic", statistic, STATISTICS))
    sheet = Sheet()
    named: set[str] = set()
    limits = _limits([getattr(row, statistic) for row in comparison.rows])
    for site in comparison.sites:
        _add_site(sheet, comparison, site, statistic, limits, named)
    sheet.add_legend(comparison.methods)
    sheet.start_band()
    _add_costs(sheet, comparison, "seconds", [(cost, cost.seconds) for cost in comparison.costs])
    measured = [(cost, cost.peak_bytes / 2**20) for cost in comparison.costs if cost.peak_bytes is not None]
    _add_costs(sheet, comparison, "peak memory beside the weights (MiB)", measured)
    undefined = sum(math.isnan(getattr(row, statistic).value) for row in comparison.rows)
    sheet.add_note(f"whiskers: {comparison.confidence:.0%} bootstrap intervals")
    if undefined:
        sheet.add_note(f"{undefined} of {len(comparison.rows)} undefined and not drawn")
    return sheet.finish(
        f"Approximate methods against exact patching: {_NAMES[statistic]}",
        replace(comparison.shared_provenance, method=None, backend=None).summary(),
    )


def _add_site(
    sheet: Sheet,
    comparison: MethodComparison,
    site: str,
    statistic: str,
    limits: tuple[float, float],
    named: set[str],
) -> None:
    """One panel. ``named`` holds the methods that are in the legend already."""
    methods, cases = comparison.methods, comparison.cases
    ticks = name_ticks(_case_names(comparison), "", limit=_LONGEST_MODEL + _LONGEST_TASK + 3)
    pitch = max(10.0 * len(methods) + 6, 200.0 / len(cases))
    room = label_room(ticks, ticks, pitch) | {"left": 66}
    panel = sheet.add_panel(site, len(cases) * pitch, _HEIGHT, **room)
    for place, method in enumerate(methods):
        offset = _SPREAD * ((place + 0.5) / len(methods) - 0.5)
        found = [(i, comparison.at(*case, site, method)) for i, case in enumerate(cases)]
        rows = [(i + offset, row) for i, row in found if row is not None]
        estimates = [getattr(row, statistic) for _, row in rows]
        sheet.figure.add_trace(
            go.Scatter(
                x=[x for x, _ in rows],
                y=[estimate.value for estimate in estimates],
                mode="markers",
                marker=_marker(methods, method),
                error_y=dict(
                    type="data",
                    symmetric=False,
                    array=[estimate.high - estimate.value for estimate in estimates],
                    arrayminus=[estimate.value - estimate.low for estimate in estimates],
                    thickness=1.2,
                    width=3,
                ),
                name=escape_text(method),
                legendgroup=escape_text(method),
                showlegend=method not in named,
                hovertext=[_describe(row, statistic) for _, row in rows],
                hovertemplate="%{hovertext}<extra></extra>",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
        named.add(method)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "",
        range=[-0.5, len(cases) - 0.5],
        tickvals=list(range(len(cases))),
        ticktext=list(ticks.texts),
        tickangle=-90 if turns_labels(ticks, pitch) else 0,
        showgrid=False,
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(_NAMES[statistic], range=list(limits))


def _add_costs(
    sheet: Sheet, comparison: MethodComparison, title: str, amounts: Sequence[tuple[MethodCost, float]]
) -> None:
    """Amounts by method, the first method at the top, on a log scale where all are above 0."""
    if not amounts:
        return
    names = list(dict.fromkeys(cost.method for cost, _ in amounts))
    ticks = name_ticks(names, "")
    room = label_room(ticks, ticks, _COST_ROW)
    panel = sheet.add_panel(title, _COST_WIDTH, len(names) * _COST_ROW, left=room["left"])
    for key, method in zip(ticks.keys, names, strict=True):
        own = [(cost, amount) for cost, amount in amounts if cost.method == method]
        sheet.figure.add_trace(
            go.Scatter(
                x=[amount for _, amount in own],
                y=[key] * len(own),
                mode="markers",
                marker=_marker(comparison.methods, method),
                hovertext=[
                    f"<b>{escape_text(method)}</b><br>{escape_text(f'{cost.model} · {cost.task}')}<br>"
                    f"{title}: {amount:.3g}"
                    for cost, amount in own
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                legendgroup=escape_text(method),
                showlegend=False,
                cliponaxis=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"yaxis{number}"] = category_axis(ticks, _COST_ROW, reverse=True)
    sheet.figure.layout[f"xaxis{number}"] = _amount_axis([amount for _, amount in amounts])


def _amount_axis(amounts: Sequence[float]) -> dict[str, Any]:
    if min(amounts) <= 0:
        return value_axis("", rangemode="tozero")
    low, high = math.log10(min(amounts)), math.log10(max(amounts))
    air = max(0.06 * (high - low), 0.15)
    low, high = low - air, high + air
    steps = (1, 2, 5) if high - low < 3 else (1,)
    marks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    shown = [mark for mark in marks if low <= math.log10(mark) <= high]
    texts = [f"{mark:,.9g}" for mark in shown]
    return value_axis("", type="log", range=[low, high], tickvals=shown, ticktext=texts)


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """0 or the lowest end of an interval, to 1, with some air."""
    ends = [end for estimate in estimates for end in (estimate.low, estimate.value) if math.isfinite(end)]
    low = min([0.0, *ends])
    air = 0.03 * (1.0 - low)
    return low - air, 1.0 + air


def _marker(methods: Sequence[str], method: str) -> dict[str, Any]:
    """The same in every panel; methods beyond the colours differ by marker. Exact patching is grey."""
    if method not in methods:
        return dict(color=GREY, symbol="circle-open", size=8, line_width=2)
    place = methods.index(method)
    return dict(color=LINES[place % len(LINES)], symbol=_SYMBOLS[place % len(_SYMBOLS)], size=8)


def _case_names(comparison: MethodComparison) -> list[str]:
    """What tells the cases apart: models (without their organisation), tasks, or both."""
    cases = [
        (shorten(model.rsplit("/", 1)[-1], _LONGEST_MODEL), shorten(task, _LONGEST_TASK))
        for model, task in comparison.cases
    ]
    models, tasks = ({case[part] for case in comparison.cases} for part in (0, 1))
    if len(models) == 1 < len(tasks):
        return [task for _, task in cases]
    if len(tasks) == 1 < len(models):
        return [model for model, _ in cases]
    return [f"{model} · {task}" for model, task in cases]


def _describe(row: MethodRow, statistic: str) -> str:
    shown = "".join(
        f"<br>{'<b>' if name == statistic else ''}{text} {getattr(row, name)}{'</b>' if name == statistic else ''}"
        for name, text in _NAMES.items()
    )
    where = escape_text(f"{row.model} · {row.task} · {row.site}, {row.n_cells} places")
    return f"<b>{escape_text(row.method)}</b><br>{where}{shown}"
