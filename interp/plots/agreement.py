"""An approximation against exact patching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import GREY, LINES
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text
from interp.results.agreement import MethodAgreement
from interp.results.phrases import capitalize, name_method

_SIDE = 460


def plot_agreement(agreement: MethodAgreement) -> go.Figure:
    """Draw approximate (y) against exact effects (x) of the same sites, with the line y = x.

    The subtitle gives Pearson and Spearman correlation and sign agreement with their intervals.
    """
    sheet = Sheet()
    method = name_method(agreement.provenance.method)
    exact, approximate = to_array(agreement.exact), to_array(agreement.approximate)
    groups = list(dict.fromkeys(agreement.chosen_as)) or ["all"]
    panel = sheet.add_panel("", _SIDE, _SIDE, left=70)
    if len(groups) > 1:
        panel.legend, panel.legend_lines = "legend", len(groups)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis)
    low, high = _limits(np.concatenate([exact, approximate]))
    sheet.figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            name="y = x",
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    )
    names = _name_groups(agreement, method)
    for group, color in zip(groups, LINES * len(groups), strict=False):
        picked = [i for i in range(len(exact)) if group in ("all", *agreement.chosen_as[i : i + 1])]
        sheet.figure.add_trace(
            go.Scatter(
                x=exact[picked],
                y=approximate[picked],
                mode="markers",
                marker=dict(color=color, size=7, opacity=0.75),
                name=escape_text(names[group]),
                showlegend=len(groups) > 1,
                hovertext=[escape_text(agreement.names[i]) for i in picked],
                hovertemplate="<b>%{hovertext}</b><br>exact %{x:.4f}<br>approximate %{y:.4f}<extra></extra>",
                **shared,
            )
        )
    number = panel.xaxis[1:]
    for axis, title in (("x", "effect by exact patching"), ("y", f"effect estimated by {method}")):
        sheet.figure.layout[f"{axis}axis{number}"] = value_axis(title, range=[low, high])
    sheet.add_note(agreement.summary())
    undefined = int((~np.isfinite(exact + approximate)).sum())
    if undefined:
        sheet.add_note(f"{undefined} of {len(exact)} undefined and not drawn")
    sheet.add_note(f"effect: {agreement.effect}")
    # the backend is that of the exact runs, and would read as the approximation's
    made, by = replace(agreement.provenance, backend=None), agreement.provenance.backend
    exactly = f" against exact patching ({by})" if by else ""
    return sheet.finish(f"{capitalize(method)} against exact patching", f"{made.summary()}{exactly}")


def _name_groups(agreement: MethodAgreement, method: str) -> dict[str, str]:
    """Why sites were checked, as the legend says it."""
    top, random = (agreement.chosen_as.count(group) for group in ("top", "random"))
    said = {"top": f"the {top} that {method} ranks first", "random": f"{random} of the others, at random"}
    return {group: said.get(group, group) for group in (*agreement.chosen_as, "all")}


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Common limits of both axes, 0 included, with some air."""
    finite = values[np.isfinite(values)]
    low, high = min(0.0, float(finite.min(initial=0.0))), max(0.0, float(finite.max(initial=0.0)))
    air = 0.06 * ((high - low) or 1.0)
    return low - air, high + air
