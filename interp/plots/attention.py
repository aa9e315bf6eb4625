"""Attention patterns: every head as a thumbnail, one enlarged."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.heatmaps import (
    axis_title,
    fit_cell,
    label_room,
    to_array,
    token_ticks,
    write_category_axes,
)
from interp.plots.scales import FRAME, sequential_scale
from interp.plots.sheet import Panel, Sheet
from interp.results.attention import AttentionPatterns

CHOOSES = "choose"
"""``meta`` of the trace whose points carry, as ``customdata``, the button that enlarges a head."""

_ROOM = 440
_FINEST = 48
"""Cells across a thumbnail; more tokens are drawn as blocks, each showing its largest weight."""


def plot_attention(
    patterns: AttentionPatterns, layer: int | None = None, head: int | None = None
) -> go.Figure:
    """Draw every head small and one of them large, chosen from the menu above it.

    Rows are destinations (top to bottom), columns are sources; colour is the attention weight from
    0. ``layer`` and ``head`` say which head is enlarged at first: by default the first. In a page
    made with :func:`interp.plots.figure_html` a click on a thumbnail enlarges it. Raises
    :class:`RecordError` for a head that is not in ``patterns``.
    """
    first = (patterns.layers[0] if layer is None else layer, 0 if head is None else head)
    patterns.at(*first)
    weights = to_array(patterns.patterns)
    heads = [(row, h) for row in range(weights.shape[0]) for h in range(weights.shape[1])]
    chosen = heads.index((patterns.layers.index(first[0]), first[1]))
    sheet = Sheet()
    color_axis = sheet.add_color_axis(sequential_scale([weights], "attention weight"))
    _add_thumbnails(sheet, patterns, weights, color_axis)
    panel = _add_large(sheet, patterns, weights, heads, chosen, color_axis)
    names = [f"L{patterns.layers[row]}H{h}" for row, h in heads]
    figure = sheet.finish(
        f"Attention patterns of prompt {patterns.prompt}: every head, and one enlarged",
        patterns.provenance.summary(),
    )
    _add_menu(figure, panel, names, chosen)
    return figure


def _add_thumbnails(
    sheet: Sheet, patterns: AttentionPatterns, weights: NDArray[np.float32], color_axis: str
) -> None:
    """All heads in one image, layer 0 at the bottom, with an unseen marker each to hover and click."""
    small = _coarsen(weights)
    n_layers, n_heads, n, _ = small.shape
    pitch = fit_cell(max(n_layers, n_heads), _ROOM, 30, 120)
    panel = sheet.add_panel("all heads", pitch * n_heads, pitch * n_layers, left=56, bottom=44)
    # the y axis rises, so the first destination of a head goes last among its rows
    mosaic = small[:, :, ::-1].transpose(0, 2, 1, 3).reshape(n_layers * n, n_heads * n)
    sheet.figure.add_trace(
        go.Heatmap(z=mosaic, coloraxis=color_axis, hoverinfo="skip", xaxis=panel.xaxis, yaxis=panel.yaxis)
    )
    _add_targets(sheet, patterns, weights, panel, n, pitch)
    for axis, count, labels, title in (
        ("x", n_heads, range(n_heads), "head"),
        ("y", n_layers, patterns.layers, "layer"),
    ):
        sheet.figure.layout[f"{axis}axis{panel.xaxis[1:]}"] = dict(
            type="linear",
            range=[-0.5, count * n - 0.5],
            showgrid=False,
            zeroline=False,
            tickvals=_middles(count, n),
            ticktext=[str(label) for label in labels],
            title=axis_title(title),
        )
        _add_borders(sheet, panel, axis, count, n)


def _middles(count: int, n: int) -> NDArray[Any]:
    """Coordinates of the middles of ``count`` thumbnails of ``n`` cells."""
    return np.arange(count) * n + (n - 1) / 2


def _add_borders(sheet: Sheet, panel: Panel, axis: str, count: int, n: int) -> None:
    """Lines between thumbnails, across the whole panel."""
    other = "y" if axis == "x" else "x"
    across = {f"{other}ref": f"{other}{panel.xaxis[1:]} domain", f"{other}0": 0, f"{other}1": 1}
    for number in range(count + 1):
        where = number * n - 0.5
        at = {f"{axis}ref": f"{axis}{panel.xaxis[1:]}", f"{axis}0": where, f"{axis}1": where}
        sheet.figure.add_shape(type="line", line=dict(color=FRAME, width=1), **across, **at)


def _add_targets(
    sheet: Sheet,
    patterns: AttentionPatterns,
    weights: NDArray[np.float32],
    panel: Panel,
    n: int,
    pitch: float,
) -> None:
    """An unseen square over every thumbnail, to hover and to click."""
    keys = token_ticks(patterns.tokens).keys
    hovers = []
    for row, layer in enumerate(patterns.layers):
        for head in range(weights.shape[1]):
            pattern = weights[row, head]
            later = np.nan_to_num(pattern)
            # the first token can only look at itself
            later[0] = later[0] if len(later) == 1 else -1
            to, source = np.unravel_index(later.argmax(), later.shape)
            hovers.append(
                f"<b>L{layer}H{head}</b><br>"
                f"largest weight {pattern[to, source]:.2f}: {keys[to]} → {keys[source]}"
            )
    n_layers, n_heads = weights.shape[:2]
    sheet.figure.add_trace(
        go.Scatter(
            x=np.tile(_middles(n_heads, n), n_layers),
            y=np.repeat(_middles(n_layers, n), n_heads),
            mode="markers",
            marker=dict(symbol="square", size=pitch - 4, opacity=0),
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            customdata=list(range(len(hovers))),
            meta=CHOOSES,
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_large(
    sheet: Sheet,
    patterns: AttentionPatterns,
    weights: NDArray[np.float32],
    heads: list[tuple[int, int]],
    chosen: int,
    color_axis: str,
) -> Panel:
    """One trace a head on the same axes; all but the chosen one hidden."""
    sources, destinations = (
        token_ticks(patterns.tokens, "source"),
        token_ticks(patterns.tokens, "destination"),
    )
    size = fit_cell(len(sources), 400, 8, 60)
    room = label_room(sources, destinations, size)
    # room for the menu, which stands above the panel
    panel = sheet.add_panel("", len(sources) * size, len(sources) * size, top=46, **room)
    panel.color_axis = color_axis
    for number, (row, head) in enumerate(heads):
        name = f"L{patterns.layers[row]}H{head}"
        sheet.figure.add_trace(
            go.Heatmap(
                z=weights[row, head],
                x=list(sources.keys),
                y=list(destinations.keys),
                coloraxis=color_axis,
                name=name,
                hovertemplate=f"<b>{name}</b><br>%{{y}} → %{{x}}<br>weight %{{z:.3f}}<extra></extra>",
                visible=number == chosen,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    write_category_axes(sheet, panel, sources, destinations, (size, size), top_down=True)
    for axis in ("x", "y"):
        sheet.figure.layout[f"{axis}axis{panel.xaxis[1:]}"].update(
            showline=True, mirror=True, linecolor=FRAME
        )
    return panel


def _add_menu(figure: go.Figure, panel: Panel, names: list[str], chosen: int) -> None:
    """A menu of all heads above the large panel."""
    first = len(figure.data) - len(names)
    traces = list(range(first, len(figure.data)))
    buttons: list[dict[str, Any]] = [
        {
            "label": name,
            "method": "restyle",
            "args": [{"visible": [other == number for other in range(len(names))]}, traces],
        }
        for number, name in enumerate(names)
    ]
    figure.update_layout(
        updatemenus=[
            dict(
                buttons=buttons,
                active=chosen,
                x=panel.x0 / figure.layout.width,
                xanchor="left",
                y=1 - (panel.y0 - 6) / figure.layout.height,
                yanchor="bottom",
                pad=dict(l=0, r=0, t=0, b=0),
                bgcolor="white",
                bordercolor="rgb(190,190,190)",
                font_size=13,
            )
        ]
    )


def _coarsen(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most ``_FINEST`` cells a side, each the largest weight of its block."""
    n = weights.shape[-1]
    block = -(-n // _FINEST)
    if block == 1:
        return weights
    padding = -n % block
    padded = np.pad(weights, [(0, 0), (0, 0), (0, padding), (0, padding)])
    cells = (n + padding) // block
    return padded.reshape(*weights.shape[:2], cells, block, cells, block).max(axis=(3, 5))
