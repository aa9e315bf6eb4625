"""Absorption of parent features into their children's latents."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import category_axis, label_room, name_ticks, to_array, turns_labels
from interp.plots.scales import BLUE, GREY, RED
from interp.plots.sheet import Sheet
from interp.results.absorption import Absorption

_HEIGHT, _SIDE = 230, 260
_PARTS = (
    ("a latent of the parent fires", BLUE),
    ("absorbed by a child's latent", RED),
    ("silent otherwise", GREY),
)


def plot_absorption(found: Absorption) -> go.Figure:
    """Draw what becomes of each parent where it is active, and how far children's latents point its way.

    Bars split the rows where a parent is active; a number above says how many latents stand for it. The
    points are children: how often one absorbs its parent over the cosine of its latent with the parent.
    """
    sheet = Sheet()
    _add_parents(sheet, found)
    _add_children(sheet, found)
    sheet.add_note(f"absorbed on {found.mean_rate:.1%} of rows, a mean over parents")
    sheet.add_note(f"parents split over several latents: {found.n_split}, without one: {found.n_lost}")
    sheet.add_note("numbers: latents of the parent")
    return sheet.finish("Absorption of parent features", found.provenance.summary())


def _add_parents(sheet: Sheet, found: Absorption) -> None:
    names = name_ticks(found.parents.tolist(), "parent feature")
    pitch = min(max(420 / len(names), 16), 48)
    panel = sheet.add_panel(
        "rows where the parent is active",
        len(names) * pitch,
        _HEIGHT,
        **label_room(names, names, pitch) | {"left": 56},
    )
    panel.legend, panel.legend_lines = "legend", len(_PARTS)
    active = np.maximum(found.n_active.numpy(), 1)
    counts = (found.n_active - found.n_silent, found.n_absorbed, found.n_silent - found.n_absorbed)
    for (name, color), count in zip(_PARTS, counts, strict=True):
        sheet.figure.add_trace(
            go.Bar(
                x=list(names.keys),
                y=(count.numpy() / active).tolist(),
                marker=dict(color=color, line_width=0),
                name=name,
                hovertext=[
                    f"<b>feature {parent}</b><br>{name}: {n} of {total} rows<br>{k} latent{'s' * (k != 1)}"
                    for parent, n, total, k in zip(
                        found.parents.tolist(),
                        count.tolist(),
                        found.n_active.tolist(),
                        found.n_latents.tolist(),
                        strict=True,
                    )
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                legend="legend",
                showlegend=True,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    for key, n in zip(names.keys, found.n_latents.tolist(), strict=True):
        sheet.figure.add_annotation(
            x=key,
            y=1.0,
            xref=panel.xaxis,
            yref=panel.yaxis,
            text=str(n),
            yanchor="bottom",
            showarrow=False,
            font=dict(size=10, color=GREY),
        )
    sheet.figure.update_layout(barmode="stack", bargap=0.2)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = category_axis(names, pitch) | dict(
        tickangle=-90 if turns_labels(names, pitch) else 0
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis("share of rows", range=[0, 1.08], tickformat=".0%")


def _add_children(sheet: Sheet, found: Absorption) -> None:
    panel = sheet.add_panel("children", _SIDE, _HEIGHT, left=62, bottom=44)
    rates, cosines = to_array(found.child_rates), to_array(found.child_cosines)
    sheet.figure.add_trace(
        go.Scatter(
            x=cosines.tolist(),
            y=rates.tolist(),
            mode="markers",
            marker=dict(size=7, color=RED, opacity=0.6),
            hovertext=[
                f"<b>feature {child}, child of {parent}</b><br>absorbs on {n} of {total} rows<br>cosine {cosine:.3f}"
                for child, parent, n, total, cosine in zip(
                    found.children.tolist(),
                    found.child_parent.tolist(),
                    found.child_absorbed.tolist(),
                    found.child_active.tolist(),
                    cosines,
                    strict=True,
                )
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    low = min(-0.1, float(cosines.min()) - 0.05)
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "cosine of the child's latent with the parent", range=[low, 1.03]
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "share of its rows absorbed", range=[-0.03, 1.05], tickformat=".0%"
    )
