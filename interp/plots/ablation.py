"""A set of parts ablated together, beside random sets of equal size."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.bars import add_bars
from interp.plots.heatmaps import name_ticks, to_array
from interp.plots.scales import BLUE, FRAME, GREY, RED
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text
from interp.results.ablation import AblationCheck

_LISTED = 12


def plot_ablation(check: AblationCheck) -> go.Figure:
    """Draw the metric of the clean run, with the chosen set ablated, with random sets, and corrupted.

    The random sets are drawn one point each over a bar at their mean; dashed lines carry the clean
    and the corrupted run across.
    """
    sheet = Sheet()
    metric = check.provenance.metric or "metric"
    random = to_array(check.random)
    n = len(check.names)
    unit = "1 part" if n == 1 else f"{n} parts"
    names = name_ticks(["clean", f"{unit} ablated", f"{unit} at random", "corrupted"], "")
    values = [check.clean, check.ablated, float(random.mean()), check.corrupted]
    hovers = [
        f"<b>clean</b><br>{escape_text(metric)} {check.clean:.4g}",
        f"<b>{escape_text(', '.join(check.names))}</b><br>{escape_text(metric)} {check.ablated:.4g}"
        f"<br>recovered {check.recovered:.3f}",
        f"<b>mean of {len(random)} random sets</b><br>{escape_text(metric)} {random.mean():.4g}",
        f"<b>corrupted</b><br>{escape_text(metric)} {check.corrupted:.4g}",
    ]
    panel = add_bars(
        sheet,
        "",
        names,
        values,
        hovers,
        value_title=metric,
        horizontal=False,
        colors=[BLUE, RED, FRAME, GREY],
        pitch=150,
        length=340,
    )
    parts = check.random_names or (("random set",),) * len(random)
    sheet.figure.add_trace(
        go.Box(
            x=[names.keys[2]] * len(random),
            y=random,
            boxpoints="all",
            jitter=1,
            width=0.6,
            pointpos=0,
            line_color="rgba(0,0,0,0)",
            fillcolor="rgba(0,0,0,0)",
            marker=dict(color="rgb(60,60,60)", size=5, opacity=0.55),
            hoveron="points",
            hovertext=[escape_text(", ".join(drawn)) for drawn in parts],
            hovertemplate=f"<b>%{{hovertext}}</b><br>{escape_text(metric)} %{{y:.4g}}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    for value in (check.clean, check.corrupted):
        sheet.figure.add_shape(
            type="line",
            xref=f"{panel.xaxis} domain",
            yref=panel.yaxis,
            x0=0,
            x1=1,
            y0=value,
            y1=value,
            line=dict(color=GREY, dash="dash", width=1),
        )
    sheet.add_note(
        f"{check.random_as_strong:.0%} of {len(random)} random sets move the metric as far as the chosen set"
    )
    return sheet.finish(_title(check), check.provenance.summary())


def _title(check: AblationCheck) -> str:
    listed = ", ".join(check.names[:_LISTED]) + (", …" if len(check.names) > _LISTED else "")
    kind = check.provenance.ablation
    return f"{listed} ablated together{f' ({kind})' if kind else ''}, against as many parts at random"
