"""How the training of a learned steering went: loss of every site, and what else was measured, over steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.steering_training import SteeringTraining

_WIDTH, _HEIGHT = 400, 280
_NAMED = 6
"""Parts up to which each has a colour and a name in the legend."""
_FAINT = "rgba(110, 110, 110, 0.45)"
_MEAN = "#222222"


def plot_steering_training(training: SteeringTraining) -> go.Figure:
    """Draw the loss of every part over steps and their mean, from 0; beside it each other measure."""
    sheet = Sheet()
    losses = to_array(training.losses)
    panel = sheet.add_panel(training.loss_name, _WIDTH, _HEIGHT, left=62)
    lines = _add_parts(sheet, panel, training, losses)
    panel.legend, panel.legend_lines = "legend", lines
    _set_axes(sheet, panel, training, losses)
    for name, curve in training.measures.items():
        panel = sheet.add_panel(name, _WIDTH, _HEIGHT, left=62)
        values = to_array(curve)
        _add_line(sheet, panel, training, name, values, _MEAN, 2.0, legend=False)
        _set_axes(sheet, panel, training, values)
    made = training.provenance
    sheet.add_note(f"{int(training.steps[-1]):,} steps")
    if made.seed is not None:
        sheet.add_note(f"seed {made.seed}")
    return sheet.finish(f"Training of a steering: {made.method or 'learned'}", made.summary())


def _add_parts(sheet: Sheet, panel: Panel, training: SteeringTraining, losses: NDArray[Any]) -> int:
    """A line for every part and one for the mean; the number of lines in the legend."""
    n = len(training.parts)
    many = n > _NAMED
    for i, name in enumerate(training.parts):
        color = _FAINT if many else LINES[i % len(LINES)]
        # of many, the first one speaks for all in the legend
        label = f"each of {n} sites" if many and i == 0 else name
        _add_line(
            sheet, panel, training, name, losses[:, i], color, 1.2 if many else 1.6, not many or i == 0, label
        )
    if n == 1:
        return 1
    _add_line(sheet, panel, training, "mean", losses.mean(1), _MEAN, 2.4)
    return 2 if many else n + 1


def _add_line(
    sheet: Sheet,
    panel: Panel,
    training: SteeringTraining,
    name: str,
    values: NDArray[Any],
    color: str,
    width: float,
    legend: bool = True,
    label: str | None = None,
) -> None:
    steps = training.steps.tolist()
    sheet.figure.add_trace(
        go.Scatter(
            x=steps,
            y=values,
            mode="lines" if len(steps) > 1 else "markers",
            line=dict(color=color, width=width),
            marker=dict(color=color, size=7),
            name=escape_text(label or name),
            hovertemplate=f"<b>{escape_text(name)}</b><br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            legend="legend",
            showlegend=legend,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _set_axes(sheet: Sheet, panel: Panel, training: SteeringTraining, values: NDArray[Any]) -> None:
    number, last = panel.xaxis[1:], max(int(training.steps[-1]), 1)
    finite = values[np.isfinite(values)]
    high = float(finite.max(initial=0.0))
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "step", range=[-0.01 * last, 1.01 * last], zeroline=False, nticks=6
    )
    low = min(0.0, float(finite.min(initial=0.0)))
    air = 0.04 * ((high - low) or 1.0)
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "", range=[low - (air if low < 0 else 0.0), high + air if high > low else 1.0]
    )
