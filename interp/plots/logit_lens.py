"""The logit lens: what the model would say at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.errors import RecordError, unknown_name
from interp.plots.bars import GRID, value_axis
from interp.plots.heatmaps import (
    add_heatmap,
    category_axis,
    fit_cell,
    label_room,
    name_ticks,
    to_array,
    token_ticks,
)
from interp.plots.scales import GREY, LINES, ColorScale, sequential_scale
from interp.plots.sheet import CHARACTER, Sheet
from interp.plots.tokens import show_token
from interp.results.lens import LensColour, LensTargets, LogitLens
from interp.results.token_text import visible_token

_COLOURS = ("probability", "target_probability", "target_rank")
_TEXT = 9


def plot_logit_lens(
    lens: LogitLens,
    prompt: int = 0,
    color: LensColour = "probability",
    positions: Sequence[int] | None = None,
) -> go.Figure:
    """Draw layer x position with the likeliest next token as text, the embedding at the bottom.

    Colour is the probability of that token, or of the target (``color="target_probability"``), or
    the target's rank (``"target_rank"``: 0 is the top, dark). ``positions`` picks some of a long
    prompt's. Where there are targets, a curve beside the map follows the last one upward through the
    layers. Raises :class:`RecordError` for a prompt, a position or a colour that is not there.
    """
    columns = _check(lens, prompt, color, positions)
    shown, tokens = lens.positions_of(prompt), lens.tokens[prompt]
    z, scale = _colours(lens, prompt, color, columns)
    room = fit_cell(len(columns), 620, 30, 66)
    cell = (room, fit_cell(len(lens.layers), 420, 20, 34))
    fits = max(2, int((room - 4) / (_TEXT * CHARACTER)))
    top = [[lens.top_tokens(layer, prompt, pos) for pos in columns] for layer in range(len(lens.layers))]
    targets = lens.targets
    sheet = Sheet()
    layers = name_ticks(lens.layers, "")
    add_heatmap(
        sheet,
        f"prompt {prompt}: the likeliest next token",
        z,
        token_ticks([tokens[pos] for pos in columns], positions=[shown[pos] for pos in columns]),
        layers,
        color_axis=sheet.add_color_axis(scale),
        cell=cell,
        names=[
            [_describe(lens, targets, (layer, prompt, pos), top[layer][i]) for i, pos in enumerate(columns)]
            for layer in range(len(top))
        ],
        details=None,
        hover="<b>%{y}</b>, after %{x}<br>%{hovertext}",
        cell_text=[[show_token(places[0][0], fits) for places in row] for row in top],
    )
    if targets is not None:
        _add_target_curve(sheet, lens, targets, prompt, cell[1])
    titles = {"probability": "its probability", "target_probability": "the target's probability"}
    what = titles.get(color, "the target's rank")
    return sheet.finish(
        f"Logit lens: the likeliest next token at every layer, coloured by {what}", lens.provenance.summary()
    )


def _check(lens: LogitLens, prompt: int, color: str, positions: Sequence[int] | None) -> list[int]:
    """Where the positions to draw stand in the record."""
    if not 0 <= prompt < len(lens.tokens):
        raise RecordError(f"no prompt {prompt} in this lens; there are prompts 0 to {len(lens.tokens) - 1}.")
    if color not in _COLOURS:
        raise RecordError(unknown_name("colour of a logit lens", color, _COLOURS))
    if color != "probability" and lens.targets is None:
        raise RecordError(
            f"color={color!r} needs targets, and this lens was made without; use 'probability'."
        )
    there = lens.positions_of(prompt)
    wanted = there if positions is None else list(positions)
    if not wanted or not set(wanted) <= set(there):
        raise RecordError(f"positions must be some of {there}, which prompt {prompt} has; got {wanted}.")
    return [there.index(pos) for pos in wanted]


def _colours(lens: LogitLens, prompt: int, color: str, columns: list[int]) -> tuple[NDArray[Any], ColorScale]:
    if color == "probability" or lens.targets is None:
        z = to_array(lens.top_probs[:, prompt, columns, 0])
        return z, sequential_scale([z], "probability", high=1.0)
    asked = to_array(lens.targets.ids[prompt, columns]) >= 0
    if color == "target_probability":
        z = to_array(lens.targets.probs[:, prompt, columns])
        return np.where(asked, z, np.nan), sequential_scale([z], "target's probability", high=1.0)
    ranks = to_array(lens.targets.ranks[:, prompt, columns])
    z = np.where(asked, np.log10(1 + ranks.clip(min=0)), np.nan)
    scale = sequential_scale([z], "target's rank")
    marks = [0, *(10**power for power in range(7) if np.log10(1 + 10**power) <= scale.high)]
    ticks = tuple((float(np.log10(1 + mark)), str(mark)) for mark in marks)
    return z, ColorScale(scale.colors[::-1], 0.0, scale.high, scale.title, ticks)


def _describe(
    lens: LogitLens, targets: LensTargets | None, at: tuple[int, int, int], top: list[tuple[str, float]]
) -> str:
    """The top tokens at one layer, prompt and position, then the target, escaped."""
    lines = [f"{show_token(text)} {p:.3f}" for text, p in top]
    if targets is not None and int(targets.ids[at[1:]]) >= 0:
        text = show_token(lens.text_of(int(targets.ids[at[1:]])))
        lines.append(f"target {text} {float(targets.probs[at]):.3f}, rank {int(targets.ranks[at])}")
    return "<br>".join(lines)


def _add_target_curve(sheet: Sheet, lens: LogitLens, targets: LensTargets, prompt: int, pitch: float) -> None:
    """The target's probability where it was last asked, layer by layer, beside the map."""
    last = [
        [pos for pos in range(len(row)) if int(targets.ids[i, pos]) >= 0] for i, row in enumerate(lens.tokens)
    ]
    if not last[prompt]:
        return
    curves = {i: to_array(targets.probs[:, i, asked[-1]]) for i, asked in enumerate(last) if asked}
    pos = last[prompt][-1]
    text = visible_token(lens.text_of(int(targets.ids[prompt, pos])))
    layers = name_ticks(lens.layers, "")
    panel = sheet.add_panel(
        f"P({text}) at position {lens.positions_of(prompt)[pos]}",
        190,
        len(layers) * pitch,
        left=label_room(layers, layers, pitch)["left"],
    )
    lines = [(f"prompt {prompt}", curves[prompt], LINES[0])]
    if len(curves) > 1:
        lines.append((f"mean of {len(curves)} prompts", np.mean(list(curves.values()), axis=0), GREY))
        panel.legend, panel.legend_lines = "legend", len(lines)
    for name, curve, color in lines:
        sheet.figure.add_trace(
            go.Scatter(
                x=curve,
                y=list(layers.keys),
                mode="lines+markers",
                name=name,
                showlegend=len(lines) > 1,
                line=dict(color=color, width=2),
                marker_size=5,
                hovertemplate=f"<b>%{{y}}</b><br>{name}: %{{x:.3f}}<extra></extra>",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("probability", range=[-0.03, 1.03])
    rows = category_axis(layers, pitch) | dict(showgrid=True, gridcolor=GRID)
    sheet.figure.layout[f"yaxis{number}"] = rows
