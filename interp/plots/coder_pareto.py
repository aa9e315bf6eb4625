"""Sparsity against fidelity of trained coders, seeds as points."""

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
from interp.results.coder_history import CoderPareto

_WIDTH, _HEIGHT = 430, 320
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_MEASURES = {
    "fvu": "fraction of variance unexplained (less is better)",
    "ce_recovered": "CE recovered (more is better)",
}


def plot_coder_pareto(pareto: CoderPareto) -> go.Figure:
    """Draw L0 against FVU, and against the share of cross-entropy recovered where it was measured.

    A point is one training run; the line of an architecture goes through the means over the seeds of each
    setting. Points that no other run beats are ringed.
    """
    sheet = Sheet()
    architectures = tuple(dict.fromkeys(pareto.architectures))
    measured = [m for m in _MEASURES if m == "fvu" or bool(pareto.ce_recovered.isfinite().any())]
    for place, measure in enumerate(measured):
        panel = sheet.add_panel(_MEASURES[measure], _WIDTH, _HEIGHT, left=66, bottom=46)
        if place == 0:
            panel.legend, panel.legend_lines = "legend", len(architectures)
        for number, architecture in enumerate(architectures):
            _add_architecture(sheet, panel, pareto, measure, architecture, number, named=place == 0)
        _add_front(sheet, panel, pareto, measure)
        _write_axes(sheet, panel, pareto, measure)
    seeds = len(set(pareto.seeds.tolist()))
    sheet.add_note(f"{len(pareto)} runs, {seeds} {'seed' if seeds == 1 else 'seeds'}")
    sheet.add_note("lines: means over seeds; ringed: no other run has as low an L0 and does better")
    if len(measured) > 1:
        missing = int((~pareto.ce_recovered.isfinite()).sum())
        if missing:
            sheet.add_note(f"CE recovered was not measured for {missing} of them")
    return sheet.finish("Sparsity against fidelity of sparse coders", pareto.provenance.summary())


def _add_architecture(
    sheet: Sheet,
    panel: Panel,
    pareto: CoderPareto,
    measure: str,
    architecture: str,
    number: int,
    *,
    named: bool,
) -> None:
    values, l0 = to_array(getattr(pareto, measure)), to_array(pareto.l0)
    rows = [i for i, a in enumerate(pareto.architectures) if a == architecture and np.isfinite(values[i])]
    color, name = LINES[number % len(LINES)], escape_text(architecture)
    settings = dict.fromkeys(pareto.names[i] for i in rows)
    grouped = [[i for i in rows if pareto.names[i] == setting] for setting in settings]
    means = sorted((float(l0[group].mean()), float(values[group].mean())) for group in grouped)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legend="legend", legendgroup=name, cliponaxis=False)
    sheet.figure.add_trace(
        go.Scatter(
            x=[x for x, _ in means],
            y=[y for _, y in means],
            mode="lines",
            line=dict(color=color, width=1.2),
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=l0[rows],
            y=values[rows],
            mode="markers",
            marker=dict(
                color=color,
                size=9,
                opacity=0.85,
                symbol=_SYMBOLS[number % len(_SYMBOLS)],
                line=dict(color="white", width=1),
            ),
            name=name,
            hovertext=[
                f"<b>{escape_text(pareto.names[i])}</b><br>{name}, seed {int(pareto.seeds[i])}<br>L0 {l0[i]:.4g}<br>"
                f"{'FVU' if measure == 'fvu' else 'CE recovered'} {values[i]:.4f}"
                for i in rows
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=named,
            **shared,
        )
    )


def _add_front(sheet: Sheet, panel: Panel, pareto: CoderPareto, measure: str) -> None:
    front = pareto.front(measure).numpy()
    sheet.figure.add_trace(
        go.Scatter(
            x=to_array(pareto.l0)[front],
            y=to_array(getattr(pareto, measure))[front],
            mode="markers",
            marker=dict(symbol="circle-open", size=15, color="black", line_width=1),
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _write_axes(sheet: Sheet, panel: Panel, pareto: CoderPareto, measure: str) -> None:
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = _l0_axis(to_array(pareto.l0))
    values = to_array(getattr(pareto, measure))
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    air = 0.08 * (high - low) or 0.05
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "FVU" if measure == "fvu" else "CE recovered", range=[low - air, high + air], zeroline=False
    )


def _l0_axis(l0: NDArray[Any]) -> dict[str, object]:
    """Logarithmic, for runs double their k; round numbers as ticks."""
    title = "latents that fire on a token (L0)"
    low, high = float(l0.min()), float(l0.max())
    if low <= 0 or high / low < 1.5:
        air = 0.1 * (high - low) or max(0.1 * high, 0.5)
        return value_axis(title, range=[low - air, high + air], zeroline=False)
    marks = [2.0**p for p in range(-4, 18) if low / 1.5 <= 2.0**p <= high * 1.5]
    air = 0.06 * np.log10(high / low)
    return value_axis(
        title,
        type="log",
        range=[np.log10(low) - air, np.log10(high) + air],
        tickvals=marks,
        ticktext=[f"{mark:g}" for mark in marks],
        zeroline=False,
    )
