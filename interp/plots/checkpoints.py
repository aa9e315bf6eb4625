"""Heads over the training of a model: lines over steps with the metric beside, and maps of every score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.scales import BLUE, GREY, LINES, RED, sequential_scale, signed_scale
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.checkpoints import COURSES, EFFECT, HeadDevelopment

MOST_LINES = 12
"""Heads drawn in colour; the others are grey."""
MOST_MAPPED = 48
"""Heads of a map; of more, those whose score is largest at any step."""
_WIDTH, _HEIGHT = 300, 240
_DASHES = ("solid", "dot")


def plot_head_development(development: HeadDevelopment) -> go.Figure:
    """Draw what becomes of every head over training.

    First the metric of both runs and the accuracy, every head's effect with its standard error, and how well
    heads rank as at the last checkpoint; then a map checkpoint x head of the effect and of every role, each
    head with its course (``+`` appears, ``↑`` strengthens, ``=`` steady, ``↓`` weakens, ``−`` vanishes).
    """
    sheet = Sheet()
    _add_metric(sheet, development)
    _add_heads(sheet, development)
    _add_agreement(sheet, development)
    sheet.start_band()
    color_axis = sheet.add_color_axis(signed_scale([to_array(development.table())], "share of the gap"))
    _add_map(sheet, development, EFFECT, color_axis)
    roles = [name for name in development.scores if name != EFFECT]
    if roles:
        sheet.start_band()
        color_axis = sheet.add_color_axis(sequential_scale([], "mean attention", high=1.0))
        for role in roles:
            _add_map(sheet, development, role, color_axis)
    metric = development.provenance.metric or "metric"
    sheet.add_note(
        f"effect: {metric} lost with the head noised, as a share of the largest gap ({development.gap:.3g})"
    )
    limits = ", ".join(f"{limit:g} for {name}" for name, limit in development.thresholds.items())
    sheet.add_note(f"a head has a score from {limits}")
    sheet.add_note(", ".join(f"{mark} {course}" for course, mark in zip(COURSES[:-1], _MARKS, strict=True)))
    made = replace(development.provenance, direction=None)
    return sheet.finish(f"Heads of {made.model} over training", made.summary())


_MARKS = ("+", "↑", "=", "↓", "−")


def _step_axis(steps: NDArray[Any]) -> dict[str, object]:
    """Linear, or by powers of ten where steps span many."""
    if steps[0] > 0 and steps[-1] / steps[0] > 50:
        low, high = np.log10(steps[[0, -1]].astype(float))
        air = 0.04 * (high - low)
        return value_axis("training step", type="log", range=[low - air, high + air], zeroline=False, dtick=1)
    air = 0.04 * float(steps[-1] - steps[0])
    return value_axis("training step", range=[steps[0] - air, steps[-1] + air], zeroline=False)


def _add_line(
    sheet: Sheet,
    panel: Panel,
    steps: Sequence[int],
    values: NDArray[Any],
    name: str,
    line: dict[str, Any],
    hovers: Sequence[str],
    *,
    legend: str | None,
    errors: NDArray[Any] | None = None,
) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=list(steps),
            y=values,
            mode="lines+markers",
            line=line,
            marker_size=5,
            error_y=None
            if errors is None
            else dict(type="data", array=np.nan_to_num(errors), color=line["color"], thickness=1, width=3),
            name=escape_text(name),
            hovertext=list(hovers),
            hovertemplate="%{hovertext}<extra></extra>",
            legend=legend,
            showlegend=legend is not None,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_metric(sheet: Sheet, development: HeadDevelopment) -> None:
    """The metric of both runs, and under it the accuracy."""
    steps = development.steps.tolist()
    metric = development.provenance.metric or "metric"
    panel = sheet.add_panel(metric, _WIDTH, _HEIGHT, left=62, bottom=46)
    panel.legend, panel.legend_lines = "legend", 2
    accuracy = to_array(development.accuracy)
    for name, color, table in (("clean", BLUE, development.clean), ("corrupted", RED, development.corrupted)):
        values = to_array(table)
        hovers = [
            f"<b>step {step:,}</b><br>{name} {escape_text(metric)} {value:.4g}<br>accuracy {share:.1%}"
            for step, value, share in zip(steps, values, accuracy, strict=True)
        ]
        _add_line(sheet, panel, steps, values, name, dict(color=color, width=2), hovers, legend="legend")
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = _step_axis(development.steps.numpy())
    sheet.figure.layout[f"yaxis{number}"] = value_axis("mean over prompts")


def _add_heads(sheet: Sheet, development: HeadDevelopment) -> None:
    """The effect of every head; those that never have one in grey."""
    steps, table = development.steps.tolist(), to_array(development.table())
    errors = to_array(development.errors.flatten(1))
    courses, first = development.courses(), development.first_steps()
    strength = np.nan_to_num(np.abs(table)).max(0)
    present = [i for i, name in enumerate(development.names) if courses[name] != "absent"]
    colored = sorted(sorted(present, key=lambda i: -strength[i])[:MOST_LINES])
    panel = sheet.add_panel("effect of each head", _WIDTH, _HEIGHT, left=62, bottom=46)
    others = [i for i in range(table.shape[1]) if i not in colored]
    named = len(colored) + bool(others)
    panel.legend, panel.legend_lines = "legend2", named
    for place, i in enumerate([*others, *colored]):
        name = development.names[i]
        is_other = i in others
        order = colored.index(i) if not is_other else 0
        color = GREY if is_other else LINES[order % len(LINES)]
        since = "" if first[name] is None else f", from step {first[name]:,}"
        hovers = [
            f"<b>{name}</b>: {courses[name]}{since}<br>step {step:,}: {value:.3f} ± {error:.2g}"
            for step, value, error in zip(steps, table[:, i], errors[:, i], strict=True)
        ]
        line = dict(color=color, width=1 if is_other else 2, dash=_DASHES[order // len(LINES) % 2])
        _add_line(
            sheet,
            panel,
            steps,
            table[:, i],
            "other heads" if is_other else f"{name} {courses[name]}",
            line,
            hovers,
            legend="legend2" if not is_other or place == 0 else None,
            errors=None if is_other else errors[:, i],
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = _step_axis(development.steps.numpy())
    sheet.figure.layout[f"yaxis{number}"] = value_axis("share of the gap")


def _add_agreement(sheet: Sheet, development: HeadDevelopment) -> None:
    """Rank correlation of every score with the last checkpoint."""
    steps = development.steps.tolist()
    names = [*development.scores, *(["edges"] if development.edges is not None else [])]
    panel = sheet.add_panel("ranked as at the last step", _WIDTH, _HEIGHT, left=62, bottom=46)
    panel.legend, panel.legend_lines = "legend3", len(names)
    lowest = 0.0
    for number, name in enumerate(names):
        values = to_array(development.agreement_with_last(name))
        lowest = min(lowest, float(np.nan_to_num(values).min()))
        hovers = [
            f"<b>{escape_text(name)}</b><br>step {step:,}: Spearman {value:.3f}"
            for step, value in zip(steps, values, strict=True)
        ]
        line = dict(color=LINES[number % len(LINES)], width=2)
        _add_line(sheet, panel, steps, values, name, line, hovers, legend="legend3")
    axes = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{axes}"] = _step_axis(development.steps.numpy())
    sheet.figure.layout[f"yaxis{axes}"] = value_axis(
        "Spearman correlation", range=[1.1 * lowest - 0.04, 1.04]
    )


def _add_map(sheet: Sheet, development: HeadDevelopment, score: str, color_axis: str) -> None:
    """Checkpoints down, heads across."""
    table = to_array(development.table(score))
    courses = development.courses(score)
    strength = np.nan_to_num(np.abs(table)).max(0)
    kept = sorted(np.argsort(-strength, kind="stable")[:MOST_MAPPED].tolist())
    if len(kept) < table.shape[1]:
        sheet.add_note(f"maps: the {len(kept)} heads of {table.shape[1]} with the largest scores")
    marks = dict(zip(COURSES, (*_MARKS, ""), strict=True))
    heads = [development.names[i] for i in kept]
    steps = development.steps.tolist()
    width = fit_cell(len(kept), 280, 14, 44)
    add_heatmap(
        sheet,
        score,
        table[:, kept],
        name_ticks([f"{name} {marks[courses[name]]}".rstrip() for name in heads], "head"),
        name_ticks([f"{step:,}" for step in steps], "training step"),
        color_axis=color_axis,
        cell=(width, fit_cell(len(steps), 220, 12, 30)),
        names=[[f"<b>{name}</b>: {courses[name]}<br>step {step:,}" for name in heads] for step in steps],
        details=None,
        hover="%{hovertext}<br>" + escape_text(score) + " %{z:.3f}",
        top_down=True,
        cell_text=two_decimals(table[:, kept]) if width >= 34 and len(steps) <= 12 else None,
    )
