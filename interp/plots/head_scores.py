"""How strongly every head plays each role."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.scales import sequential_scale, signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tables import add_table
from interp.plots.tokens import escape_text
from interp.results.attention import HeadRole, HeadScores

TABLE_ROWS = 5


def plot_head_scores(scores: HeadScores, role: str | None = None) -> go.Figure:
    """Draw a layer x head map for every role (or for ``role`` alone) and the top heads of each.

    Roles of the same units share one colour scale. Scores that cannot be negative have a sequential
    scale from 0, signed ones a diverging scale around 0. Raises :class:`RecordError` for a role
    that is not there.
    """
    chosen = list(scores.values)
    if role is not None:
        scores[role]
        chosen = [role]
    sheet = Sheet()
    for (units, signed), roles in _by_scale(scores, chosen).items():
        sheet.start_band()
        tables = [to_array(scores.values[name]) for name in roles]
        color_axis = sheet.add_color_axis((signed_scale if signed else sequential_scale)(tables, units))
        for name in roles:
            _add_role(sheet, scores, name, color_axis)
    sheet.start_band()
    for name in chosen:
        top = scores.top(name, TABLE_ROWS)
        columns = [("head", [head.name for head in top]), (name, [f"{head.value:.3f}" for head in top])]
        add_table(sheet, "", columns)
    for name in chosen:
        sheet.add_note(f"{name}: {scores.roles[name].definition}")
    return sheet.finish(f"Head roles: {', '.join(chosen)}", scores.provenance.summary())


def _by_scale(scores: HeadScores, chosen: list[str]) -> dict[tuple[str, bool], list[str]]:
    """Roles that may share a colour scale."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in chosen:
        role: HeadRole = scores.roles[name]
        groups.setdefault((role.units, role.signed), []).append(name)
    return groups


def _add_role(sheet: Sheet, scores: HeadScores, role: str, color_axis: str) -> None:
    table = to_array(scores.values[role])
    n_layers, n_heads = table.shape
    size = fit_cell(max(n_layers, n_heads), 300, 14, 40)
    add_heatmap(
        sheet,
        role,
        table,
        name_ticks(range(n_heads), "head"),
        name_ticks(scores.layers, "layer"),
        color_axis=color_axis,
        cell=(size, size),
        names=[[f"L{layer}H{head}" for head in range(n_heads)] for layer in scores.layers],
        details=np.stack([table], axis=-1),
        hover=f"<b>%{{hovertext}}</b><br>{escape_text(role)} %{{customdata[0]:.3f}} "
        f"({escape_text(scores.roles[role].units)})",
        cell_text=two_decimals(table) if table.size <= 100 and size >= 30 else None,
    )
