"""Circuits knocked out and kept, task by task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array
from interp.plots.scales import signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.across_tasks import ACTS, CrossTaskAblation

_TITLES = {"knocked_out": "circuit knocked out", "kept": "only the circuit kept"}
_RANDOM = {
    "edges": {"knocked_out": "as many edges into the same readers", "kept": "as many edges on random ways"},
    "heads": dict.fromkeys(ACTS, "as many heads of the same layers"),
}
_LONGEST_NAME = 22


def plot_cross_ablation(ablation: CrossTaskAblation) -> go.Figure:
    """Draw circuit x task tables of performance: each circuit knocked out, and each kept alone.

    1 = the whole model, 0 = everything ablated. In brackets the mean of random circuits of the same size;
    hover has intervals and p-values. A diagonal low in the first and high in the second table says that
    circuits are of their tasks; what lies off it is what tasks share.
    """
    sheet = Sheet()
    tables = [to_array(part) for part in ablation.performance]
    color_axis = sheet.add_color_axis(signed_scale(tables, "performance"))
    rows = name_ticks(
        [
            f"{shorten(name, _LONGEST_NAME)} ({size})"
            for name, size in zip(ablation.circuits, ablation.sizes, strict=True)
        ],
        "circuit",
        limit=40,
    )
    columns = name_ticks([shorten(name, _LONGEST_NAME) for name in ablation.tasks], "performance on")
    width = fit_cell(len(ablation.tasks), 420, 50, 92)
    height = fit_cell(len(ablation.circuits), 320, 40, 56)
    drawn = ablation.random.shape[-1]
    for number, act in enumerate(ACTS):
        add_heatmap(
            sheet,
            _TITLES[act],
            tables[number],
            columns,
            rows,
            color_axis=color_axis,
            cell=(width, height),
            names=_describe(ablation, number),
            details=None,
            hover="%{hovertext}",
            top_down=True,
            cell_text=_cell_texts(ablation, number),
        )
    sheet.add_note("1 = the whole model, 0 = everything ablated")
    if drawn:
        sheet.add_note(f"in brackets: mean of {drawn} random circuits of as many {ablation.level}")
    sheet.add_note(f"circuits: in brackets how many of {ablation.n_items:,} {ablation.level}")
    made = ablation.provenance
    title = "Circuits knocked out and kept across tasks"
    return sheet.finish(title, replace(made, method=None, direction=None).summary())


def _cell_texts(ablation: CrossTaskAblation, act: int) -> list[list[str]]:
    own, random = to_array(ablation.performance[act]), to_array(ablation.random_mean[act])
    return [
        [
            _number(value) + ("" if np.isnan(mean) else f"<br>({_number(mean)})")
            for value, mean in zip(*row, strict=True)
        ]
        for row in zip(own, random, strict=True)
    ]


def _number(value: float) -> str:
    text = "" if np.isnan(value) else f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def _describe(ablation: CrossTaskAblation, act: int) -> list[list[str]]:
    p_values = ablation.p_values[act]
    random = ablation.random[act]
    rows = []
    for i, circuit in enumerate(ablation.circuits):
        row = []
        for j, task in enumerate(ablation.tasks):
            value, low, high = (
                float(x[act, i, j]) for x in (ablation.performance, ablation.low, ablation.high)
            )
            full, empty = float(ablation.full[j]), float(ablation.empty[j])
            metric = escape_text(ablation.metrics[j])
            text = (
                f"<b>{escape_text(circuit)}: {_TITLES[ACTS[act]]}</b><br>on {escape_text(task)} "
                f"({ablation.n_prompts[j]} prompts)<br>performance {value:.3f} [{low:.3f}, {high:.3f}]<br>"
                f"{metric} {empty + value * (full - empty):.4g} (whole model {full:.4g}, ablated {empty:.4g})"
            )
            if random.shape[-1]:
                drawn = random[i, j]
                text += (
                    f"<br>{_RANDOM[ablation.level][ACTS[act]]}: {float(drawn.mean()):.3f} "
                    f"({float(drawn.min()):.3f} to {float(drawn.max()):.3f})<br>p = {float(p_values[i, j]):.2g}"
                )
            row.append(text)
        rows.append(row)
    return rows
