"""How a training run went."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.history import TrainingHistory

_WIDTH, _HEIGHT = 470, 280


def plot_training_curve(history: TrainingHistory) -> go.Figure:
    """Draw loss over steps, and beside it the held-out measures that are shares from 0 to 1."""
    sheet = Sheet()
    steps = history.steps.tolist()
    losses = {"training": to_array(history.loss)}
    if "loss" in history.held_out:
        losses["held out"] = to_array(history.held_out["loss"])
    panel = sheet.add_panel("loss", _WIDTH, _HEIGHT, left=62)
    _add_curves(sheet, panel, steps, losses, "nats a token", "legend")
    panel.legend, panel.legend_lines = "legend", len(losses)
    sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].rangemode = "tozero"
    shares = {name: to_array(curve) for name, curve in history.held_out.items() if name != "loss"}
    if shares:
        panel = sheet.add_panel("held out", _WIDTH, _HEIGHT, left=62)
        _add_curves(sheet, panel, steps, shares, "share", "legend2")
        panel.legend, panel.legend_lines = "legend2", len(shares)
        sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].range = [-0.03, 1.03]
    if history.provenance.seed is not None:
        sheet.add_note(f"seed {history.provenance.seed}")
    if history.provenance.seconds is not None:
        sheet.add_note(f"{history.provenance.seconds / 60:.1f} minutes")
    return sheet.finish(f"Training of {history.provenance.model}", history.provenance.summary())


def _add_curves(
    sheet: Sheet,
    panel: Panel,
    steps: list[int],
    curves: dict[str, NDArray[np.float32]],
    title: str,
    legend: str,
) -> None:
    """One line a curve; steps at which it was not measured are passed over."""
    for number, (name, curve) in enumerate(curves.items()):
        measured = [i for i in range(len(steps)) if np.isfinite(curve[i])]
        sheet.figure.add_trace(
            go.Scatter(
                x=[steps[i] for i in measured],
                y=curve[measured],
                mode="lines" if len(measured) > 40 else "lines+markers",
                line=dict(color=LINES[number % len(LINES)], width=2),
                marker_size=5,
                name=escape_text(name),
                hovertemplate=f"<b>{escape_text(name)}</b><br>step %{{x}}: %{{y:.4f}}<extra></extra>",
                legend=legend,
                showlegend=True,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number_of_axes = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number_of_axes}"] = value_axis("step", zeroline=False)
    sheet.figure.layout[f"yaxis{number_of_axes}"] = value_axis(title)
