"""Codes that heads show on positive prompts only: heads, edges between them, and the codes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array
from interp.plots.scales import ColorScale, sequential_scale, signed_scale
from interp.plots.sheet import Sheet
from interp.results.discrete import DiscreteCircuit, Part

SIGNIFICANT = 0.05
MOST_HEADS = 160
"""Rows of the map of edges and of the map of codes; of more heads, those that score highest are drawn."""
MOST_CODES = 240
"""Columns of the map of codes; of more, those seen most often are drawn."""
_PART_NAMES: dict[Part, str] = {"held_out": "held-out prompts", "train": "prompts trained on"}


def plot_discrete_circuit(discrete: DiscreteCircuit, on: Part = "held_out") -> go.Figure:
    """Draw scores of heads and of edges between heads, and which codes each head shows.

    Scores of heads are layer x head maps, on held-out prompts and on those that the coder was trained on.
    One star on the held-out map: p below 0.05 for this head alone; two: corrected for the number of heads.
    Beside them edges as senders against receivers, and below, for every head and code, the share of positive
    less that of negative prompts, both on the prompts ``on``. Raises :class:`CircuitError` for another part.
    """
    sheet = Sheet()
    n = int(discrete.held_out.sum())
    sheet.add_note(f"{n} held-out prompts and {len(discrete.held_out) - n} trained on, half of both negative")
    sheet.add_note(
        f"stars: p < {SIGNIFICANT} under {discrete.n_shuffles} shuffles of the labels"
        f"{' in pairs' if discrete.paired else ''}, ** corrected for {discrete.codes[0].numel()} heads"
    )
    _add_heads(sheet, discrete)
    _add_edges(sheet, discrete, on)
    sheet.start_band()
    _add_codes(sheet, discrete, on)
    return sheet.finish(
        "Heads by codes that positive prompts alone show: "
        + ("share of a head's codes" if discrete.normalised else "number of codes"),
        discrete.provenance.summary(),
    )


def _add_heads(sheet: Sheet, discrete: DiscreteCircuit) -> None:
    tables = {part: to_array(discrete.head_scores(part)) for part in _PART_NAMES}
    n_layers, n_heads = discrete.n_layers, discrete.n_heads
    size = fit_cell(max(n_layers, n_heads), 300, 14, 44)
    color_axis = sheet.add_color_axis(_scale(discrete, list(tables.values()), "codes"))
    p, family = to_array(discrete.p_values), to_array(discrete.family_p_values)
    stars = np.where(family < SIGNIFICANT, "**", np.where(p < SIGNIFICANT, "*", ""))
    details = {
        "held_out": [p, family, to_array(discrete.null_means), tables["train"]],
        "train": [tables["held_out"]],
    }
    hovers = {
        "held_out": "p %{customdata[2]:.3g}, corrected %{customdata[3]:.3g}<br>shuffled labels: "
        "%{customdata[4]:.3g} on average<br>prompts trained on: %{customdata[5]:.3g}",
        "train": "held-out prompts: %{customdata[2]:.3g}",
    }
    for part, table in tables.items():
        variety = to_array(discrete.head_variety(part))
        marks = stars if part == "held_out" else np.full_like(stars, "")
        add_heatmap(
            sheet,
            _PART_NAMES[part],
            table,
            name_ticks(range(n_heads), "head"),
            name_ticks(range(n_layers), "layer"),
            color_axis=color_axis,
            cell=(size, size),
            names=[[f"L{layer}H{head}" for head in range(n_heads)] for layer in range(n_layers)],
            details=np.stack([table, variety, *details[part]], axis=-1),
            hover="<b>%{hovertext}</b><br>score %{customdata[0]:.3g}, of %{customdata[1]:.0f} codes in all<br>"
            + hovers[part],
            cell_text=_cell_texts(table, marks, size),
        )


def _cell_texts(table: NDArray[np.float32], marks: NDArray[np.str_], size: float) -> list[list[str]]:
    """Score and stars where both can be read, stars alone elsewhere."""
    if table.size > 100 or size < 30:
        return [list(map(str, row)) for row in marks]
    return [
        [f"{score:.3g}{mark}" for score, mark in zip(scores, row, strict=True)]
        for scores, row in zip(table, marks, strict=True)
    ]


def _add_edges(sheet: Sheet, discrete: DiscreteCircuit, on: Part) -> None:
    scores = to_array(discrete.edge_scores(on))
    known = np.nan_to_num(scores)
    kept = _strongest(sheet, np.maximum(known.max(0), known.max(1)), "edges")
    # heads of the last layer send to none, those of the first receive from none
    senders = [head for head in kept if head < scores.shape[0] - discrete.n_heads]
    receivers = [head for head in kept if head >= discrete.n_heads]
    if not senders or not receivers:
        return
    scores = scores[np.ix_(senders, receivers)].T
    size = fit_cell(max(len(senders), len(receivers)), 440, 3, 24)
    names = _names(discrete, senders), _names(discrete, receivers)
    add_heatmap(
        sheet,
        f"edges, {_PART_NAMES[on]}",
        scores,
        name_ticks(names[0], "sender"),
        name_ticks(names[1], "receiver"),
        color_axis=sheet.add_color_axis(_scale(discrete, [scores], "pairs of codes")),
        cell=(size, size),
        names=[[f"{sender} → {receiver}" for sender in names[0]] for receiver in names[1]],
        details=np.stack([scores], axis=-1),
        hover="<b>%{hovertext}</b><br>score %{customdata[0]:.3g}",
    )
    if np.isnan(scores).any():
        sheet.add_note("grey: the receiver is in no later layer")


def _add_codes(sheet: Sheet, discrete: DiscreteCircuit, on: Part) -> None:
    positive, negative = (to_array(table) for table in discrete.code_usage(on))
    kept = _strongest(sheet, to_array(discrete.head_scores(on)).ravel(), "codes")
    positive, negative = positive[kept], negative[kept]
    seen = (positive + negative).sum(0)
    often = np.sort(np.argsort(-seen, kind="stable")[: min(MOST_CODES, int((seen > 0).sum()))])
    if len(often) < (seen > 0).sum():
        sheet.add_note(f"codes: the {len(often)} seen most often of {(seen > 0).sum()}")
    positive, negative = positive[:, often], negative[:, often]
    difference = positive - negative
    names = _names(discrete, kept)
    texts = ["none" if code == discrete.n_latents else str(code) for code in often.tolist()]
    add_heatmap(
        sheet,
        f"codes of each head, {_PART_NAMES[on]}: share of positive − share of negative prompts",
        difference,
        name_ticks(texts, "code: the latent that fires most"),
        name_ticks(names, ""),
        color_axis=sheet.add_color_axis(signed_scale([difference], "share of prompts")),
        cell=(fit_cell(len(often), 900, 4, 24), fit_cell(len(kept), 440, 4, 20)),
        names=[[f"{name}, code {text}" for text in texts] for name in names],
        details=np.stack([difference, positive, negative], axis=-1),
        hover="<b>%{hovertext}</b><br>positive prompts %{customdata[1]:.1%}<br>negative prompts "
        "%{customdata[2]:.1%}",
    )


def _scale(discrete: DiscreteCircuit, tables: Sequence[NDArray[np.float32]], what: str) -> ColorScale:
    return sequential_scale(tables, f"share of {what}" if discrete.normalised else what)


def _strongest(sheet: Sheet, strength: NDArray[np.float32], what: str) -> list[int]:
    """All heads, or the strongest, in the order of the computation."""
    kept = np.argsort(-strength, kind="stable")[:MOST_HEADS]
    if len(kept) < len(strength):
        sheet.add_note(f"{what}: the {len(kept)} heads that score highest of {len(strength)}")
    return sorted(kept.tolist())


def _names(discrete: DiscreteCircuit, heads: Sequence[int]) -> list[str]:
    return [f"L{head // discrete.n_heads}H{head % discrete.n_heads}" for head in heads]
