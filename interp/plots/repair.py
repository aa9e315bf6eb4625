"""A repair: metrics before and after beside controls, and the attention that was moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import category_axis, label_room, name_ticks, to_array, turns_labels
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.repair import CONTROLS, Repair

_CONDITIONS = ("as it is", "repaired", "other heads", "other tokens")
_COLORS = (GREY, BLUE, LINES[1], LINES[1])
_PITCH, _HEIGHT, _ROW = 84, 240, 26
_SCATTER = 240
_MOST_MOVES = 30


def plot_repair(repair: Repair) -> go.Figure:
    """Draw every metric before and after the repair, with both controls, and the attention moved.

    Means over prompts; every draw of a control is a small point, their mean a large one. Beside them the first
    metric of each prompt before and after, and below each head's attention before and after.
    """
    sheet = Sheet()
    for row in range(len(repair.metrics)):
        _add_metric(sheet, repair, row)
    _add_prompts(sheet, repair)
    sheet.start_band()
    _add_moves(sheet, repair)
    drawn = repair.random_heads.shape[1]
    sheet.add_note(repair.summary())
    sheet.add_note(f"whiskers: {repair.confidence:.0%} bootstrap intervals of the gain over prompts")
    if drawn:
        sheet.add_note(
            f"{drawn} draws of each control: the same attention of other heads, or to other tokens"
        )
    return sheet.finish(f"Attention of {repair.named_heads} repaired", repair.provenance.summary())


def _add_metric(sheet: Sheet, repair: Repair, row: int) -> None:
    """Four conditions side by side."""
    metric = repair.metrics[row]
    controls = CONTROLS if repair.random_heads.shape[1] else ()
    drawn = {name: to_array(repair.control(name)[row].mean(-1)) for name in controls}
    shown = _CONDITIONS[: 2 + len(controls)]
    means = [float(repair.before[row].mean()), float(repair.after[row].mean())]
    means += [float(values.mean()) for values in drawn.values()]
    ticks = name_ticks(shown, "")
    panel = sheet.add_panel(
        metric, len(shown) * _PITCH, _HEIGHT, **label_room(ticks, ticks, _PITCH) | {"left": 66}
    )
    for place, values in enumerate(drawn.values(), start=2):
        _add_draws(sheet, panel, place, values, metric)
    gain = repair.gains[row]
    n = repair.before.shape[1]
    hovers = [
        f"<b>{name}</b><br>{escape_text(metric)} {mean:.4g}, {n} prompts"
        for name, mean in zip(shown, means, strict=True)
    ]
    hovers[1] += f"<br>gain {gain.value:.4g} [{gain.low:.4g}, {gain.high:.4g}]"
    for place, name in enumerate(controls, start=2):
        hovers[place] += f"<br>as good as the repair: p = {float(repair.p_values(name)[row]):.2g}"
    up, down = ([0.0, end, 0.0, 0.0][: len(shown)] for end in (gain.high - gain.value, gain.value - gain.low))
    sheet.figure.add_trace(
        go.Scatter(
            x=list(range(len(shown))),
            y=means,
            mode="markers",
            marker=dict(color=list(_COLORS[: len(shown)]), size=11),
            error_y=dict(
                type="data", symmetric=False, array=up, arrayminus=down, color=BLUE, thickness=1.5, width=5
            ),
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    angle = -90 if turns_labels(ticks, _PITCH) else 0
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "", range=[-0.5, len(shown) - 0.5], tickvals=list(range(len(shown))), ticktext=list(ticks.texts),
        tickangle=angle, showgrid=False, zeroline=False,
    )  # fmt: skip
    ends = [
        *means,
        gain.low + means[0],
        gain.high + means[0],
        *(v for values in drawn.values() for v in values),
    ]
    sheet.figure.layout[f"yaxis{number}"] = value_axis("mean over prompts", range=_limits(ends))


def _add_draws(sheet: Sheet, panel: Panel, place: int, values: NDArray[np.float32], metric: str) -> None:
    """Every draw of a control, spread so that equal ones can be told apart."""
    spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
    sheet.figure.add_trace(
        go.Scatter(
            x=place + spread,
            y=values,
            mode="markers",
            marker=dict(color=_COLORS[place], size=5, opacity=0.45),
            hovertext=[
                f"{_CONDITIONS[place]}, one draw<br>{escape_text(metric)} {value:.4g}" for value in values
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_prompts(sheet: Sheet, repair: Repair) -> None:
    """The first metric of every prompt, before and after."""
    before, after = to_array(repair.before[0]), to_array(repair.after[0])
    low, high = _limits([*before, *after])
    panel = sheet.add_panel(f"{repair.metrics[0]} of each prompt", _SCATTER, _HEIGHT, left=66)
    sheet.figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dash"),
            hoverinfo="skip",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=before,
            y=after,
            mode="markers",
            marker=dict(color=BLUE, size=6, opacity=0.55),
            hovertext=[
                f"prompt {i}<br>{x:.4g} to {y:.4g}"
                for i, (x, y) in enumerate(zip(before, after, strict=True))
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("as it is", range=[low, high])
    sheet.figure.layout[f"yaxis{number}"] = value_axis("repaired", range=[low, high])


def _add_moves(sheet: Sheet, repair: Repair) -> None:
    """Attention before and after, a row a move."""
    moves = repair.moves[:_MOST_MOVES]
    if len(moves) < len(repair.moves):
        sheet.add_note(f"the first {len(moves)} of {len(repair.moves)} moves of attention")
    ticks = name_ticks([move.name for move in moves], "", limit=44)
    panel = sheet.add_panel(
        "attention, mean over prompts",
        420,
        len(moves) * _ROW,
        left=label_room(ticks, ticks, _ROW)["left"],
        bottom=46,
    )
    panel.legend, panel.legend_lines = "legend", 2
    for move, key in zip(moves, ticks.keys, strict=True):
        sheet.figure.add_trace(
            go.Scatter(
                x=[move.before, move.after],
                y=[key, key],
                mode="lines",
                line=dict(color="rgb(205,205,205)", width=3),
                hoverinfo="skip",
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    for name, color, values in (
        ("as it is", GREY, [move.before for move in moves]),
        ("repaired", BLUE, [move.after for move in moves]),
    ):
        sheet.figure.add_trace(
            go.Scatter(
                x=values,
                y=list(ticks.keys),
                mode="markers",
                marker=dict(color=color, size=9),
                name=name,
                hovertext=[f"<b>{escape_text(m.name)}</b><br>{m.before:.3f} to {m.after:.3f}" for m in moves],
                hovertemplate="%{hovertext}<extra></extra>",
                legend="legend",
                showlegend=True,
                cliponaxis=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"yaxis{number}"] = category_axis(ticks, _ROW, reverse=True)
    sheet.figure.layout[f"xaxis{number}"] = value_axis("share of the head's attention", range=[-0.03, 1.03])


def _limits(values: Sequence[float]) -> list[float]:
    """0 in sight, and some air."""
    finite = [float(value) for value in values if np.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    air = 0.06 * ((high - low) or 1.0)
    return [low - air, high + air]
