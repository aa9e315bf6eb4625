"""Latents that fire because a sequence repeats."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import GREY, sequential_scale
from interp.plots.sheet import Sheet
from interp.results.induction_latents import InductionLatents

_SIDE = 460


def plot_induction_latents(found: InductionLatents) -> go.Figure:
    """Draw how often each latent fires on repeated tokens (y) against the same tokens where nothing repeats (x)."""
    sheet = Sheet()
    scale = sequential_scale([np.ones(1)], "share of activation on repeated tokens", high=1.0)
    axis = sheet.add_color_axis(scale)
    panel = sheet.add_panel("", _SIDE, _SIDE, left=70)
    panel.color_axis = axis
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis)
    x, y, share = (
        to_array(values) for values in (found.control_rate, found.repeated_rate, found.selectivity)
    )
    top = 1.05 * max(float(x.max()), float(y.max()), 1e-3)
    sheet.figure.add_trace(
        go.Scatter(
            x=[0, top],
            y=[0, top],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            marker=dict(color=share, coloraxis=axis, size=8, opacity=0.85, line=dict(color=GREY, width=0.5)),
            showlegend=False,
            hovertext=[f"latent {i}" for i in range(len(share))],
            customdata=share[:, None],
            hovertemplate="<b>%{hovertext}</b><br>repeated %{y:.3f}, other %{x:.3f}"
            "<br>share on repeated %{customdata[0]:.3f}<extra></extra>",
            **shared,
        )
    )
    number = panel.xaxis[1:]
    for side, title in (("x", "fires, tokens that repeat nothing"), ("y", "fires, tokens that repeat")):
        sheet.figure.layout[f"{side}axis{number}"] = value_axis(title, range=[-0.02 * top, top])
    sheet.add_note(found.summary())
    return sheet.finish("Latents that fire because a sequence repeats", found.provenance.summary())
