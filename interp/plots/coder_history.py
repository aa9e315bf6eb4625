"""Training curves of sparse coders: loss, sparsity, fidelity and dead latents over tokens."""

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
from interp.results.coder_history import PART, CoderHistory

_WIDTH, _HEIGHT = 215, 200
_SMALL = 130
_MAIN = {
    "loss": "loss",
    "l0": "L0 (latents a token)",
    "fvu": "FVU (unexplained variance)",
    "dead_frac": "dead latents",
}
_SETTINGS = {
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens a second",
    "k": "k",
    "sparsity_coefficient": "sparsity coefficient",
}
_DASHES = ("solid", "dash", "dot")
_POINTS = 40
"""Rows up to which each is marked."""


def plot_coder_history(history: CoderHistory) -> go.Figure:
    """Draw loss, L0, FVU and the share of dead latents over tokens; below, parts of the loss, rate and speed.

    Each coder has a colour. What was not measured has no panel.
    """
    sheet = Sheet()
    named = False
    for measure, title in _MAIN.items():
        if _is_measured(history, measure):
            _add_panel(sheet, history, measure, title, _HEIGHT, legend=not named)
            named = True
    parts = sorted(name for name in history.curves if name.startswith(PART))
    others = [name for name in history.curves if name not in _MAIN | _SETTINGS and name not in parts]
    sheet.start_band()
    for measure in (*parts, *_SETTINGS, *others):
        constant = _constants(history, measure)
        if constant:
            sheet.add_note(f"{_SETTINGS.get(measure, measure)} {constant} throughout")
        elif _is_measured(history, measure):
            title = _SETTINGS.get(measure, measure.replace(PART, "part of the loss: "))
            _add_panel(sheet, history, measure, title, _SMALL, legend=not named)
            named = True
    if not named:
        _add_panel(sheet, history, "loss", "loss: nothing measured yet", _HEIGHT, legend=False)
    made = history.provenance
    what = "a sparse coder" if len(history.names) == 1 else f"{len(history.names)} sparse coders"
    if len(history):
        sheet.add_note(f"{int(history.tokens[-1]):,} tokens")
    if made.seed is not None:
        sheet.add_note(f"seed {made.seed}")
    for note in made.notes:
        sheet.add_note(note)
    return sheet.finish(f"Training of {what}", made.summary())


def _is_measured(history: CoderHistory, measure: str) -> bool:
    return measure in history.curves and bool(history.curves[measure].isfinite().any())


def _constants(history: CoderHistory, measure: str) -> str:
    """The one value of each coder, where none of them has two; nothing of a single row."""
    if not _is_measured(history, measure) or len(history) < 2:
        return ""
    found = [{f"{v:.4g}" for v in column if np.isfinite(v)} for column in to_array(history.curves[measure]).T]
    values = list(dict.fromkeys(next(iter(one)) for one in found if len(one) == 1))
    return "" if any(len(one) > 1 for one in found) else " and ".join(values)


def _add_panel(
    sheet: Sheet, history: CoderHistory, measure: str, title: str, height: int, *, legend: bool
) -> None:
    panel = sheet.add_panel(title, _WIDTH, height, left=56, bottom=42)
    if legend:
        panel.legend, panel.legend_lines = "legend", len(history.names)
    drawn = []
    if measure in history.curves:
        drawn = [_add_line(sheet, panel, history, measure, i, legend) for i in range(len(history.names))]
    number = panel.xaxis[1:]
    last = int(history.tokens[-1]) if len(history) else 1
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "tokens", range=[0, 1.02 * last], zeroline=False, nticks=4, exponentformat="SI"
    )
    sheet.figure.layout[f"yaxis{number}"] = _measure_axis(measure, np.concatenate(drawn or [np.zeros(0)]))


def _measure_axis(measure: str, values: NDArray[Any]) -> dict[str, object]:
    """From 0, and logarithmic for figures that fall over powers of ten."""
    values = values[np.isfinite(values)]
    if measure in ("loss", "fvu") or measure.startswith(PART):
        positive = values[values > 0]
        if len(positive) == len(values) > 0 and values.max() / values.min() > 5:
            low, high = np.log10(values.min()), np.log10(values.max())
            air = 0.05 * (high - low)
            marks = [m * 10.0**p for p in range(int(low) - 2, int(high) + 2) for m in (1, 2, 5)]
            marks = [mark for mark in marks if low - air <= np.log10(mark) <= high + air]
            texts = [f"{mark:g}" for mark in marks]
            limits = [low - air, high + air]
            return value_axis("", type="log", range=limits, zeroline=False, tickvals=marks, ticktext=texts)
    high = max(float(values.max(initial=0.0)) * 1.06, 1e-12)
    low = min(0.0, float(values.min(initial=0.0)) * 1.06)
    if measure == "dead_frac":
        return value_axis("", range=[low, max(high, 0.01)], tickformat=".1~%")
    return value_axis(
        "", range=[low, high if high > 1e-12 else 1.0], exponentformat="SI" if high >= 1e4 else "power"
    )


def _add_line(
    sheet: Sheet, panel: Panel, history: CoderHistory, measure: str, coder: int, legend: bool
) -> NDArray[Any]:
    values = to_array(history.curves[measure][:, coder])
    measured = np.flatnonzero(np.isfinite(values))
    tokens = history.tokens.numpy()[measured]
    name = escape_text(history.names[coder])
    shown = escape_text(measure)
    sheet.figure.add_trace(
        go.Scatter(
            x=tokens,
            y=values[measured],
            mode="lines" if len(measured) > _POINTS else "lines+markers",
            line=dict(
                color=LINES[coder % len(LINES)], width=1.8, dash=_DASHES[coder // len(LINES) % len(_DASHES)]
            ),
            marker_size=4,
            name=name,
            legendgroup=name,
            hovertext=[
                f"<b>{name}</b><br>{seen:,} tokens: {shown} {value:.4g}"
                for seen, value in zip(tokens.tolist(), values[measured].tolist(), strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            showlegend=legend,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    return values
