"""Direct logit attribution: which parts wrote the answer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import add_bars, add_ranked_bars, value_axis
from interp.plots.heatmaps import (
    add_heatmap,
    category_axis,
    fit_cell,
    label_room,
    name_ticks,
    to_array,
    turns_labels,
    two_decimals,
)
from interp.plots.scales import BLUE, GREY, signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tables import add_table
from interp.plots.tokens import escape_text
from interp.results.lens import LogitAttribution

TABLE_ROWS = 10
_WIDTH, _HEIGHT = 470, 240


def plot_logit_attribution(attribution: LogitAttribution) -> go.Figure:
    """Draw the accumulated logit difference, each component's share, the heads and the top neurons.

    Everything is the mean over prompts in logit-difference units; whiskers are the standard error.
    Blue pushes towards the answer. The dashed line is the model's own logit difference, which the
    accumulated line reaches when every part is listed.
    """
    sheet = Sheet()
    _add_accumulated(sheet, attribution)
    _add_components(sheet, attribution)
    if attribution.by_head is not None:
        sheet.start_band()
        _add_heads(sheet, attribution, to_array(attribution.by_head))
    if attribution.by_neuron is not None and attribution.neurons:
        mean, error = _mean_and_error(to_array(attribution.by_neuron))
        hovers = [
            _hover(attribution, name, m, e)
            for name, m, e in zip(attribution.neurons, mean, error, strict=True)
        ]
        title = f"top {len(attribution.neurons)} neurons"
        add_ranked_bars(sheet, title, attribution.neurons, mean.tolist(), hovers, attribution.units)
    n = attribution.actual.shape[0]
    total, actual = float(attribution.total.mean()), float(attribution.actual.mean())
    sheet.add_note(f"whiskers: standard error over {n} prompts" if n > 1 else "one prompt")
    sheet.add_note(f"components sum to {total:.3g}, the model says {actual:.3g}")
    return sheet.finish(
        f"Direct logit attribution: what each part adds to the {attribution.units}",
        attribution.provenance.summary(),
    )


def _mean_and_error(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard error over the last axis; the error is 0 for one prompt."""
    n = values.shape[-1]
    error = values.std(axis=-1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[:-1], values.dtype)
    return values.mean(axis=-1), error


def _hover(attribution: LogitAttribution, name: str, mean: float, error: float) -> str:
    return f"<b>{escape_text(name)}</b><br>{escape_text(attribution.units)} {mean:.4f} ± {error:.4f}"


def _add_accumulated(sheet: Sheet, attribution: LogitAttribution) -> None:
    points, values = attribution.running_total()
    mean, error = _mean_and_error(to_array(values))
    actual = float(attribution.actual.mean())
    names = name_ticks(points, "")
    pitch = _WIDTH / len(names)
    room = label_room(names, names, pitch) | {"left": 62, "right": 24}
    panel = sheet.add_panel("accumulated", _WIDTH, _HEIGHT, **room)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False)
    sheet.figure.add_trace(
        go.Scatter(
            x=list(names.keys),
            y=mean,
            mode="lines+markers",
            line=dict(color=BLUE, width=2),
            marker_size=5,
            error_y=dict(type="data", array=error, color=GREY, thickness=1, width=3),
            hovertext=[_hover(attribution, p, m, e) for p, m, e in zip(points, mean, error, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
            **shared,
        )
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=list(names.keys),
            y=[actual] * len(names),
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            hovertemplate=f"the model: {actual:.4f}<extra></extra>",
            **shared,
        )
    )
    sheet.figure.add_annotation(
        text=f"the model: {actual:.2f}",
        x=0,
        xref=f"{panel.xaxis} domain",
        xanchor="left",
        y=actual,
        yref=panel.yaxis,
        yanchor="bottom",
        showarrow=False,
        font_color=GREY,
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = category_axis(names, pitch) | dict(
        tickangle=-90 if turns_labels(names, pitch) else 0
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(attribution.units)


def _add_components(sheet: Sheet, attribution: LogitAttribution) -> None:
    mean, error = _mean_and_error(to_array(attribution.by_component))
    add_bars(
        sheet,
        "by component",
        name_ticks(attribution.components, ""),
        mean.tolist(),
        [_hover(attribution, n, m, e) for n, m, e in zip(attribution.components, mean, error, strict=True)],
        value_title=attribution.units,
        horizontal=False,
        errors=error.tolist(),
        pitch=_WIDTH / len(attribution.components),
        length=_HEIGHT,
    )


def _add_heads(sheet: Sheet, attribution: LogitAttribution, by_head: NDArray[np.float32]) -> None:
    mean, error = _mean_and_error(by_head)
    n_layers, n_heads = mean.shape
    names = [[f"L{attribution.layer_of(row)}H{head}" for head in range(n_heads)] for row in range(n_layers)]
    size = fit_cell(max(n_layers, n_heads), 330, 14, 42)
    add_heatmap(
        sheet,
        "by head",
        mean,
        name_ticks(range(n_heads), "head"),
        name_ticks([attribution.layer_of(row) for row in range(n_layers)], "layer"),
        color_axis=sheet.add_color_axis(signed_scale([mean], attribution.units)),
        cell=(size, size),
        names=names,
        details=np.stack([mean, error], axis=-1),
        hover=f"<b>%{{hovertext}}</b><br>{escape_text(attribution.units)} "
        "%{customdata[0]:.4f} ± %{customdata[1]:.4f}",
        cell_text=two_decimals(mean) if mean.size <= 100 and size >= 30 else None,
    )
    order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:TABLE_ROWS]
    flat = [name for row in names for name in row]
    add_table(
        sheet,
        f"top {len(order)}",
        [
            ("head", [flat[i] for i in order]),
            (attribution.units, [f"{mean.flat[i]:.3f} ± {error.flat[i]:.3f}" for i in order]),
        ],
    )
