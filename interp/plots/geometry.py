"""Geometry of a dictionary: nearest directions, spectrum, firing, and what fires together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go

from interp.errors import RecordError, unknown_name
from interp.plots.bars import value_axis
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array
from interp.plots.scales import BLUE, GREY, sequential_scale, signed_scale
from interp.plots.sheet import Panel, Sheet
from interp.results.feature_geometry import FeatureGeometry

_WIDTH, _HEIGHT = 290, 190
_BINS = 48
_MEASURES = {"phi": "correlation of firing (phi)", "jaccard": "both fire, of rows where one does (Jaccard)"}


def plot_geometry(found: FeatureGeometry, measure: Literal["phi", "jaccard"] = "phi") -> go.Figure:
    """Draw how near each latent's nearest other is, beside random directions; the spectrum; and firing.

    The table shows ``measure`` of the latents that fire most. Raises :class:`RecordError` for an unknown measure.
    """
    if measure not in _MEASURES:
        raise RecordError(unknown_name("measure", measure, _MEASURES))
    sheet = Sheet()
    _add_cosines(sheet, found)
    _add_spectrum(sheet, found)
    if found.firing is not None:
        _add_firing(sheet, found)
    if len(found.top) > 1:
        sheet.start_band()
        _add_coactivation(sheet, found, measure)
    sheet.add_note(f"effective dimension {found.effective_dimension:.1f} of {len(found.spectrum)}")
    sheet.add_note(
        f"{found.n_duplicates} latents with a duplicate (cosine at least {found.duplicate_cosine:g})"
    )
    if found.n_dead is not None:
        sheet.add_note(
            f"{found.n_dead} dead latents, {found.n_dead_duplicates} of them duplicates of live ones"
        )
    return sheet.finish(f"Geometry of {found.n_latents} latents", found.provenance.summary())


def _add_cosines(sheet: Sheet, found: FeatureGeometry) -> None:
    panel = sheet.add_panel("cosine with the nearest other latent", _WIDTH, _HEIGHT, left=56, bottom=44)
    panel.legend, panel.legend_lines = "legend", 2
    drawn = [to_array(found.nearest_cosine), to_array(found.random_cosine)]
    low = min(0.0, *(float(part.min()) for part in drawn))
    edges = np.linspace(low, 1.0 + 1e-6, _BINS + 1)
    for values, name, color in zip(
        drawn, ("this dictionary", "random directions"), (BLUE, GREY), strict=True
    ):
        _add_histogram(sheet, panel, values, edges, name, color)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("cosine", range=[low - 0.02, 1.02])
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "share of latents", rangemode="tozero", tickformat="~p"
    )


def _add_histogram(
    sheet: Sheet, panel: Panel, values: np.ndarray, edges: np.ndarray, name: str, color: str
) -> None:
    shares = np.histogram(values, edges)[0] / max(len(values), 1)
    sheet.figure.add_trace(
        go.Scatter(
            x=np.repeat(edges, 2)[1:-1],
            y=np.repeat(shares, 2),
            mode="lines",
            line=dict(color=color, width=1.5, dash="solid" if color == BLUE else "dash"),
            fill="tozeroy" if color == BLUE else None,
            fillcolor="rgba(33,102,172,0.15)" if color == BLUE else None,
            name=name,
            hovertext=[
                f"<b>{name}</b><br>{a:.3g} to {b:.3g}: {share:.1%}"
                for a, b, share in zip(edges[:-1], edges[1:], shares, strict=True)
                for _ in range(2)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            showlegend=panel.legend is not None,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_spectrum(sheet: Sheet, found: FeatureGeometry) -> None:
    panel = sheet.add_panel("spectrum of the directions", _WIDTH, _HEIGHT, left=62, bottom=44)
    shares = to_array(found.spectrum)
    ranks = list(range(1, len(shares) + 1))
    for y, color, dash, text in (
        (np.full(len(shares), 1 / len(shares)), GREY, "dot", "all dimensions alike"),
        (shares, BLUE, "solid", "this dictionary"),
    ):
        sheet.figure.add_trace(
            go.Scatter(
                x=ranks,
                y=y,
                mode="lines" if len(ranks) > 1 else "markers",
                line=dict(color=color, width=2, dash=dash),
                hovertext=[
                    f"<b>{text}</b><br>rank {r}: {share:.2%}" for r, share in zip(ranks, y, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("rank", range=[0, len(shares) + 1], zeroline=False)
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "share of squared length", rangemode="tozero", tickformat="~p"
    )


def _add_firing(sheet: Sheet, found: FeatureGeometry) -> None:
    assert found.firing is not None
    panel = sheet.add_panel("how often live latents fire", _WIDTH, _HEIGHT, left=56, bottom=44)
    firing = to_array(found.firing)
    live = np.log10(firing[firing > 0])
    low = float(np.floor(live.min())) if len(live) else -1.0
    _add_histogram(sheet, panel, live, np.linspace(low, 1e-6, _BINS + 1), "live latents", BLUE)
    number = panel.xaxis[1:]
    marks = list(range(int(low), 1))
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share of rows",
        range=[low - 0.1, 0.1],
        tickvals=marks,
        ticktext=[f"{10.0**mark:.{max(0, -mark - 2)}%}" for mark in marks],
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "share of latents", rangemode="tozero", tickformat="~p"
    )


def _add_coactivation(sheet: Sheet, found: FeatureGeometry, measure: str) -> None:
    table = to_array(found.phi if measure == "phi" else found.jaccard)
    np.fill_diagonal(table := table.copy(), np.nan)
    scale = signed_scale([table], "phi") if measure == "phi" else sequential_scale([table], "Jaccard")
    cell = fit_cell(len(found.top), 480, 8, 24)
    latents = found.top.tolist()
    add_heatmap(
        sheet,
        f"{_MEASURES[measure]} of the {len(latents)} latents that fire most",
        table,
        name_ticks(latents, "latent"),
        name_ticks(latents, "latent"),
        color_axis=sheet.add_color_axis(scale),
        cell=(cell, cell),
        names=[[f"<b>latents {a} and {b}</b>" for b in latents] for a in latents],
        details=None,
        hover=f"%{{hovertext}}<br>{measure} %{{z:.3f}}",
        top_down=True,
    )
