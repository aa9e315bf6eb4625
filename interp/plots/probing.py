"""Probes on a few latents, and the best single unit of each attribute."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.over_counts import Curve, add_curves, shared_limits
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import CHARACTER, TICK_SIZE, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.probing import MATCH_SOURCES, AttributeMatch, ProbeMetric, SparseProbing, metric_index

_METRICS = {"accuracy": "accuracy", "f1": "F1", "auc": "area under the ROC curve"}
_LONGEST = 26
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")
_COLORS = (BLUE, GREY, LINES[1], LINES[2])
_PITCH, _WIDTH = 46, 480


def plot_probing(found: SparseProbing, metric: ProbeMetric = "accuracy") -> go.Figure:
    """Draw a figure of probes over their number of latents, a panel a target.

    Beside the dictionary's latents, with a band: random latents (dashed), a probe on the whole activation
    (solid line across), and a constant answer (dotted). Raises :class:`RecordError` for an unknown metric.
    """
    at = metric_index(metric)
    sheet = Sheet()
    panels = []
    for i, target in enumerate(found.targets):
        latents, random = to_array(found.latents[i, :, at]), to_array(found.random[i, :, at])
        dense, constant = float(found.dense[i, at, 0]), float(found.constant[i, at])
        panels.append(
            (
                target,
                [
                    Curve("constant answer", np.array([constant]), GREY, "dot", level=True),
                    Curve("whole activation", np.array([dense]), LINES[1], level=True),
                    Curve("random latents", random[:, 0], GREY, "dash"),
                    Curve("latents", latents[:, 0], BLUE, "solid", latents[:, 1], latents[:, 2]),
                ],
            )
        )
    limits = shared_limits([curve for _, curves in panels for curve in curves])
    for number, (target, curves) in enumerate(panels):
        add_curves(
            sheet,
            shorten(target, _LONGEST),
            found.ks,
            curves,
            limits,
            x_title="latents",
            y_title=_METRICS[metric],
            named=number == 0,
        )
    sheet.add_legend([curve.name for curve in panels[0][1]])
    sheet.add_note(f"bands: {found.confidence:.0%} bootstrap intervals over prompts held out")
    return sheet.finish(f"Sparse probing: {_METRICS[metric]} of a few latents", found.provenance.summary())


def plot_attribute_match(found: AttributeMatch) -> go.Figure:
    """Draw the F1 of the best single unit for each target, from each source, with intervals.

    A grey bar marks what saying yes everywhere reaches.
    """
    sheet = Sheet()
    n = len(found.targets)
    names = [shorten(target, _LONGEST) for target in found.targets]
    left = round(max(map(len, names)) * TICK_SIZE * CHARACTER + 18)
    panel = sheet.add_panel("", _WIDTH, n * _PITCH, left=left, bottom=44, top=8)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legend="legend")
    always = to_array(found.always)
    sheet.figure.add_trace(
        go.Bar(
            x=always.tolist(),
            y=list(range(n)),
            orientation="h",
            width=0.86,
            marker=dict(color="rgb(232,232,232)", line_width=0),
            name="always yes",
            hovertext=[
                f"<b>{escape_text(t)}</b><br>always yes {a:.3f}" for t, a in zip(names, always, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=True,
            **shared,
        )
    )
    for row, source in enumerate(MATCH_SOURCES):
        value, low, high = to_array(found.f1[row]).T
        sheet.figure.add_trace(
            go.Scatter(
                x=value.tolist(),
                y=[i + 0.2 * (row - 1.5) for i in range(n)],
                mode="markers",
                marker=dict(size=8, symbol=_SYMBOLS[row], color=_COLORS[row]),
                error_x=dict(
                    type="data",
                    symmetric=False,
                    array=(high - value).tolist(),
                    arrayminus=(value - low).tolist(),
                    color=_COLORS[row],
                    thickness=1.2,
                    width=0,
                ),
                name=source,
                hovertext=[
                    f"<b>{escape_text(target)}</b><br>{source}, number {int(found.unit[row, i])}"
                    f"{' (low means yes)' * (float(found.sign[row, i]) < 0)}<br>F1 {value[i]:.3f} "
                    f"[{low[i]:.3f}, {high[i]:.3f}]"
                    for i, target in enumerate(found.targets)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=True,
                cliponaxis=False,
                **shared,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("F1 on prompts held out", range=[0, 1.02])
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[n - 0.5, -0.5],
        tickvals=list(range(n)),
        ticktext=[escape_text(name) for name in names],
        zeroline=False,
        showgrid=False,
        ticks="outside",
        ticklen=4,
        tickcolor="rgba(0,0,0,0)",
    )
    sheet.add_legend(["always yes", *MATCH_SOURCES])
    sheet.add_note(f"lines: {found.confidence:.0%} bootstrap intervals over prompts")
    sheet.add_note(
        "unit and threshold chosen on other prompts; neurons and components may be read either way"
    )
    return sheet.finish("The best single unit for each attribute", found.provenance.summary())
