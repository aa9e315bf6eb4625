"""Planted features found or not: of one dictionary, and of several architectures over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch

from interp.errors import RecordError, unknown_name
from interp.plots.bars import value_axis
from interp.plots.heatmaps import (
    add_heatmap,
    category_axis,
    fit_cell,
    label_room,
    name_ticks,
    to_array,
    turns_labels,
)
from interp.plots.scales import BLUE, GREY, LINES, signed_scale
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.feature_recovery import RECOVERY_FIGURES, FeatureRecovery, RecoveryTable

MOST_FEATURES = 96
"""Features and latents drawn in the table of cosines; of more, evenly spaced ones."""
_SIDE = 200
_COLORS = (*LINES, "rgb(0,150,160)", "rgb(205,90,150)", "rgb(140,140,30)")
_NAMES = {
    "mcc": "MCC",
    "mmcs": "MMCS",
    "uniqueness": "uniqueness",
    "activation_mcc": "MCC of activations",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "fvu": "FVU",
    "l0": "L0",
}
_UNBOUNDED = ("fvu", "l0")


def plot_feature_recovery(found: FeatureRecovery) -> go.Figure:
    """Draw cosines of latents with features, and how well features are found by how often they fire.

    Features run from the best matched to the worst, each latent in the column of its match, so that a
    dictionary that found everything is a blue diagonal; latents without a match stand last.
    """
    sheet = Sheet()
    _add_cosines(sheet, found)
    sheet.start_band()
    texts = [
        f"<b>feature {i}</b><br>fires on {float(found.firing[i]):.2%}<br>match: latent {int(found.matched[i])}, "
        f"|cosine| {float(found.matched_cosines[i]):.3f}<br>detector: latent {int(found.detector[i])}, "
        f"F1 {float(found.per_feature_f1[i]):.3f}"
        for i in range(found.n_features)
    ]
    _add_points(sheet, found, to_array(found.matched_cosines), "|cosine| of the match", found.mcc, texts)
    _add_points(sheet, found, to_array(found.per_feature_f1), "F1 of the detector", found.f1, texts)
    sheet.add_note(f"MCC {found.mcc:.3f}, MMCS {found.mmcs:.3f}, uniqueness {found.uniqueness:.3f}")
    sheet.add_note(f"FVU {found.fvu:.3f}, L0 {found.l0:.1f}")
    sheet.add_note("dashed: the mean")
    title = f"{found.n_features} planted features in {found.n_latents} latents"
    return sheet.finish(title, found.provenance.summary())


def _add_cosines(sheet: Sheet, found: FeatureRecovery) -> None:
    order = found.matched_cosines.argsort(descending=True, stable=True)
    if len(order) > MOST_FEATURES:
        order = order[_spaced(len(order), MOST_FEATURES)]
        sheet.add_note(f"table: {MOST_FEATURES} of {found.n_features} features, evenly spaced by rank")
    matched = found.matched[order]
    columns = matched[matched >= 0]
    free = torch.ones(found.n_latents, dtype=torch.bool)
    free[found.matched[found.matched >= 0]] = False
    others = free.nonzero()[:, 0]
    others = others[found.cosines.abs().amax(1)[others].argsort(descending=True, stable=True)]
    room = max(MOST_FEATURES - len(columns), MOST_FEATURES // 4)
    if len(others) > room:
        sheet.add_note(f"{room} of {len(others)} latents without a match, the nearest ones")
    columns = torch.cat([columns, others[:room]])
    table = to_array(found.cosines[columns][:, order].T)
    cell = fit_cell(max(table.shape), 560, 3, 16)
    names = [[f"<b>feature {f}, latent {latent}</b>" for latent in columns.tolist()] for f in order.tolist()]
    add_heatmap(
        sheet,
        "cosines, each latent below its match",
        table,
        name_ticks(columns.tolist(), "latent"),
        name_ticks(order.tolist(), "feature"),
        color_axis=sheet.add_color_axis(signed_scale([np.ones(1)], "cosine")),
        cell=(cell, cell),
        names=names,
        details=None,
        hover="%{hovertext}<br>cosine %{z:.3f}",
        top_down=True,
    )


def _spaced(n: int, kept: int) -> torch.Tensor:
    return torch.linspace(0, n - 1, kept).round().long()


def _add_points(
    sheet: Sheet, found: FeatureRecovery, values: np.ndarray, title: str, mean: float, texts: Sequence[str]
) -> None:
    panel = sheet.add_panel(title, 1.4 * _SIDE, _SIDE, left=56, bottom=44)
    firing = np.maximum(to_array(found.firing), 1e-9)
    sheet.figure.add_trace(
        go.Scatter(
            x=firing,
            y=values,
            mode="markers",
            marker=dict(size=6, color=BLUE, opacity=0.65),
            hovertext=list(texts),
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    _draw_level(sheet, panel, mean, GREY, "dash")
    number = panel.xaxis[1:]
    shown = firing[firing > 1e-9]
    low, high = (np.log10(shown.min()), np.log10(shown.max())) if len(shown) else (-1.0, 0.0)
    air = max(0.06 * (high - low), 0.08)
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share of rows where the feature fires", type="log", range=[low - air, high + air], zeroline=False
    ) | dict(dtick="D2" if high - low > 0.7 else None, tickformat="~p")
    sheet.figure.layout[f"yaxis{number}"] = value_axis("", range=[-0.03, 1.05])


def _draw_level(sheet: Sheet, panel: Panel, value: float, color: str, dash: str) -> None:
    if not np.isfinite(value):
        return
    sheet.figure.add_shape(
        type="line",
        xref=f"{panel.xaxis} domain",
        yref=panel.yaxis,
        x0=0,
        x1=1,
        y0=value,
        y1=value,
        line=dict(color=color, width=1, dash=dash),
    )


def plot_recovery_table(table: RecoveryTable, figures: Sequence[str] | None = None) -> go.Figure:
    """Draw every figure of every architecture: its seeds as points, their mean with its interval.

    A dotted line across marks random dictionaries' mean. ``figures`` chooses some of the table's. Raises
    :class:`RecordError` for one that is not there.
    """
    chosen = tuple(table.figures if figures is None else figures)
    for figure in chosen:
        if figure not in table.figures:
            raise RecordError(unknown_name("figure", figure, table.figures))
    names = sorted(table.architectures, key=lambda name: name == table.random)
    sheet = Sheet()
    for figure in chosen:
        _add_figure(sheet, table, figure, names)
    for figure in chosen:
        if figure not in ("precision", "recall"):
            sheet.add_note(RECOVERY_FIGURES[figure].removeprefix(f"{_NAMES[figure]}: "))
    seeds = sorted({len(row.values) for row in table.rows})
    counts = " or ".join(map(str, seeds))
    sheet.add_note(
        f"{counts} seed{'s' * (seeds != [1])} as points; bars: {table.confidence:.0%} {table.interval} intervals of "
        "the mean"
    )
    sheet.add_note("dotted: random dictionaries")
    return sheet.finish("Recovery of planted features by architecture", table.provenance.summary())


def _add_figure(sheet: Sheet, table: RecoveryTable, figure: str, names: Sequence[str]) -> None:
    ticks = name_ticks([shorten(name, 18) for name in names], "")
    pitch = 34
    panel = sheet.add_panel(
        _NAMES[figure], len(names) * pitch, _SIDE, **label_room(ticks, ticks, pitch) | {"left": 52}
    )
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False, cliponaxis=False)
    for number, (key, name) in enumerate(zip(ticks.keys, names, strict=True)):
        row = table.at(name, figure)
        color = GREY if name == table.random else _COLORS[number % len(_COLORS)]
        value, low, high = row.estimate.value, row.estimate.low, row.estimate.high
        interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        said = f"<b>{escape_text(name)}</b><br>{_NAMES[figure]} "
        sheet.figure.add_trace(
            go.Scatter(
                x=[key] * len(row.values),
                y=list(row.values),
                mode="markers",
                marker=dict(size=7, color=color, opacity=0.45),
                hovertext=[f"{said}{one:.3f}, seed {i}" for i, one in enumerate(row.values)],
                hovertemplate="%{hovertext}<extra></extra>",
                **shared,
            )
        )
        sheet.figure.add_trace(
            go.Scatter(
                x=[key],
                y=[value],
                mode="markers",
                marker=dict(size=15, symbol="line-ew", line=dict(color=color, width=2.5)),
                error_y=dict(
                    type="data",
                    symmetric=False,
                    array=[0.0 if np.isnan(high) else high - value],
                    arrayminus=[0.0 if np.isnan(low) else value - low],
                    color=color,
                    thickness=1.5,
                    width=5,
                ),
                hovertext=[f"{said}{value:.3f}{interval}, mean of {len(row.values)}"],
                hovertemplate="%{hovertext}<extra></extra>",
                **shared,
            )
        )
    if table.random in names:
        _draw_level(sheet, panel, table.at(table.random, figure).mean, GREY, "dot")
    suffix = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{suffix}"] = category_axis(ticks, pitch) | dict(
        tickangle=-90 if turns_labels(ticks, pitch) else 0
    )
    limits = {} if figure in _UNBOUNDED else dict(range=[-0.02, 1.04])
    sheet.figure.layout[f"yaxis{suffix}"] = value_axis("", **limits) | (
        dict(rangemode="tozero") if figure in _UNBOUNDED else {}
    )
