"""The panels of a figure of sets: interactions, single effects, ranked sets, a greedy path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import add_bars, value_axis
from interp.plots.heatmaps import (
    Ticks,
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
from interp.plots.tokens import escape_text, shorten
from interp.results.sets import RankedSet, SetScores

MOST_MEMBERS = 160
"""Rows of the map of pairs; of more members, those with the strongest interactions are drawn."""
RANKED = 20
TABLE_ROWS = 10
_LONGEST_NAME = 64
_INK = "rgb(60,60,60)"


def add_pairs(sheet: Sheet, scores: SetScores) -> None:
    """Interactions of all pairs of members, and beside each row the member's effect alone."""
    interaction = to_array(scores.matrix())
    kept = _strongest_members(interaction)
    if len(kept) < len(interaction):
        sheet.add_note(f"the {len(kept)} members with the strongest interactions of {len(interaction)}")
    grid = np.ix_(kept, kept)
    interaction, values = interaction[grid], to_array(scores.matrix("value"))[grid]
    names = [scores.members[i] for i in kept]
    ticks = name_ticks(names, "")
    alone = to_array(scores.single_values)[kept]
    n = len(kept)
    size = fit_cell(n, 560, 5, 40)
    shown = [escape_text(name) for name in names]
    add_heatmap(
        sheet,
        "effect of each pair − sum of the two alone",
        interaction,
        ticks,
        ticks,
        color_axis=sheet.add_color_axis(signed_scale([interaction], "interaction")),
        cell=(size, size),
        names=[[a if i == j else f"{a} + {b}" for j, b in enumerate(shown)] for i, a in enumerate(shown)],
        details=np.stack(
            [interaction, values, *np.broadcast_arrays(alone[:, None], alone[None, :])], axis=-1
        ),
        hover="<b>%{hovertext}</b><br>interaction %{customdata[0]:+.3f}<br>recovered %{customdata[1]:.3f}"
        "<br>%{y} alone %{customdata[2]:.3f}<br>%{x} alone %{customdata[3]:.3f}",
        cell_text=two_decimals(interaction) if n * n <= 100 and size >= 34 else None,
    )
    apart = np.isnan(interaction[~np.eye(n, dtype=bool)]).any()
    sheet.add_note(f"grey: a member with itself{', and pairs not patched' if apart else ''}")
    _add_alone(sheet, scores, kept, "each alone", pitch=size, top_down=False)


def add_members(sheet: Sheet, scores: SetScores) -> None:
    """What the strongest members do alone, strongest at the top."""
    strength = scores.single_effects.abs().nan_to_num(nan=-1.0)
    kept = strength.argsort(descending=True, stable=True)[:RANKED].tolist()
    title = "each alone" if len(kept) == len(strength) else f"alone: the {len(kept)} strongest"
    _add_alone(sheet, scores, kept, title, pitch=18, top_down=True)


def add_top_pairs(sheet: Sheet, scores: SetScores) -> None:
    """Two rankings of pairs, by interaction and by effect."""
    for by in ("interaction", "effect"):
        ranked = scores.top(TABLE_ROWS, by=by)
        columns = [
            ("pair", [shorten(row.name, _LONGEST_NAME) for row in ranked]),
            ("together", [_signed(row.effect) for row in ranked]),
            ("sum of both", [_signed(row.effect - row.interaction) for row in ranked]),
            ("interaction", [_signed(row.interaction) for row in ranked]),
        ]
        add_table(sheet, f"top {len(ranked)} by {by}", columns)


def add_top_sets(sheet: Sheet, scores: SetScores) -> None:
    """The sets of the largest effect as bars, with the sum of their members' effects as diamonds."""
    ranked = scores.top(RANKED)
    some = f" of {len(scores.sets):,}" if len(scores.sets) > len(ranked) else ""
    ticks = _set_ticks([row.name for row in ranked])
    hovers = [_describe(scores, row) for row in ranked]
    panel = add_bars(
        sheet,
        f"the {len(ranked)} strongest{some}" if some else "every set",
        ticks,
        [row.effect for row in ranked],
        hovers,
        value_title=_effect_title(scores),
        horizontal=True,
        pitch=18,
        length=340,
        top_down=True,
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=[row.effect - row.interaction for row in ranked],
            y=list(ticks.keys),
            mode="markers",
            # white inside: seen on bars of either colour and beside them
            marker=dict(symbol="diamond", size=9, color="white", line=dict(color=_INK, width=1.5)),
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    sheet.add_note("diamonds: the sum of the members' effects alone")


def add_path(sheet: Sheet, scores: SetScores, path: Sequence[int]) -> None:
    """Recovered score over the steps of a greedy search, above what else was tried at each."""
    values, sums = to_array(scores.values), to_array(scores.additive) + scores.nothing
    sizes = scores.sizes.tolist()
    added = [scores.members_at(index)[-1] for index in path]
    steps = name_ticks(
        [name if i == 0 else f"+ {name}" for i, name in enumerate(added)], "added at each step"
    )
    key_of = {sizes[index]: key for index, key in zip(path, steps.keys, strict=True)}
    others = [i for i in range(len(sizes)) if i not in set(path) and sizes[i] in key_of]
    pitch = max(70.0, steps.longest * 8.0)
    panel = sheet.add_panel(
        "the chosen set after each step",
        len(steps) * pitch,
        260,
        **label_room(steps, steps, pitch) | {"left": 66},
    )
    panel.legend, panel.legend_lines = "legend", 3
    tried_x = [steps.keys[0]] * len(scores.members) + [key_of[sizes[i]] for i in others]
    tried_y = [*scores.single_values.tolist(), *values[others].tolist()]
    tried_names = [*scores.members, *(scores.name_at(i) for i in others)]
    traces = (
        (
            "tried",
            tried_x,
            tried_y,
            tried_names,
            "markers",
            dict(marker=dict(color=GREY, size=5, opacity=0.5)),
        ),
        (
            "sum of the members' effects alone",
            list(steps.keys),
            sums[list(path)].tolist(),
            [scores.name_at(i) for i in path],
            "lines",
            dict(line=dict(color=_INK, dash="dash", width=1.5)),
        ),
        (
            "patched together",
            list(steps.keys),
            values[list(path)].tolist(),
            [scores.name_at(i) for i in path],
            "lines+markers",
            dict(line=dict(color=BLUE, width=2), marker=dict(size=7)),
        ),
    )
    for name, x, y, names, mode, style in traces:
        sheet.figure.add_trace(
            go.Scatter(
                name=name,
                x=x,
                y=y,
                mode=mode,
                hovertext=[escape_text(text) for text in names],
                hovertemplate=f"<b>%{{hovertext}}</b><br>{name}: recovered %{{y:.3f}}<extra></extra>",
                legend="legend",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
                **style,
            )
        )
    number = panel.xaxis[1:]
    angle = -90 if turns_labels(steps, pitch) else 0
    sheet.figure.layout[f"xaxis{number}"] = category_axis(steps, pitch) | dict(tickangle=angle)
    sheet.figure.layout[f"yaxis{number}"] = value_axis("recovered score")


def _strongest_members(interaction: np.ndarray) -> list[int]:
    """All members, or those with the strongest interactions, in their own order."""
    strength = np.nan_to_num(np.abs(interaction), nan=-1.0).max(axis=1, initial=-1.0)
    return sorted(np.argsort(-strength, kind="stable")[:MOST_MEMBERS].tolist())


def _add_alone(
    sheet: Sheet, scores: SetScores, kept: Sequence[int], title: str, *, pitch: float, top_down: bool
) -> None:
    values, effects, raw = scores.single_values, scores.single_effects, scores.single_raw
    add_bars(
        sheet,
        title,
        name_ticks([scores.members[i] for i in kept], ""),
        [float(effects[i]) for i in kept],
        [_say(scores, scores.members[i], float(values[i]), float(raw[i])) for i in kept],
        value_title=_effect_title(scores),
        horizontal=True,
        pitch=pitch,
        length=220,
        top_down=top_down,
    )


def _set_ticks(names: Sequence[str]) -> Ticks:
    texts = [shorten(name, _LONGEST_NAME) for name in names]
    # unlike name_ticks, long names stay readable: sets differ in their last member
    keys = [f"{i} {escape_text(name)}" for i, name in enumerate(names)]
    longest = max(map(len, texts))
    return Ticks(tuple(keys), tuple(map(escape_text, texts)), longest, "")


def _describe(scores: SetScores, row: RankedSet) -> str:
    together = row.effect - row.interaction
    return (
        f"{_say(scores, row.name, row.value, row.raw)}<br>effect {row.effect:.3f}, sum of its members' "
        f"{together:.3f}<br>interaction {row.interaction:+.3f}"
    )


def _say(scores: SetScores, name: str, value: float, raw: float) -> str:
    """What a bar says on hover, escaped."""
    metric = escape_text(scores.provenance.metric or "metric")
    return (
        f"<b>{escape_text(name)}</b><br>recovered {value:.3f}<br>{metric} {raw:.4g} "
        f"(corrupted {scores.corrupted:.3g}, clean {scores.clean:.3g})"
    )


def _signed(value: float) -> str:
    """A number with its sign, none on what rounds to 0."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def _effect_title(scores: SetScores) -> str:
    return "recovered score − 1" if scores.direction == "noise" else "recovered score"
