"""Scores of all edges: what reads against what writes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.errors import CircuitError, unknown_name
from interp.plots.heatmaps import (
    SMALLEST_TICK,
    Ticks,
    category_axis,
    fill_behind,
    fit_cell,
    label_room,
    name_ticks,
    turns_labels,
)
from interp.plots.scales import ColorScale, signed_scale
from interp.plots.sheet import TICK_SIZE, Panel, Sheet
from interp.plots.tables import add_table
from interp.plots.tokens import escape_text
from interp.results.circuit_plan import show_edge, show_node, show_reader
from interp.results.edges import EdgeScores
from interp.results.graph import Graph, Reader, Writer
from interp.results.phrases import describe_patch
from interp.results.token_text import visible_token

By = Literal["node", "layer"]
Positions = Literal["sum", "each"]

_MOST_NAMED = 110
"""Readers up to which every one has a row with a name; of more, layers are drawn unless asked otherwise."""
_NO_EDGE = "rgb(236,236,236)"
_LINE = "rgb(150,150,150)"
_TABLE_ROWS = 10


def plot_edge_scores(
    scores: EdgeScores, *, by: By | None = None, positions: Positions = "sum", root: bool = True
) -> go.Figure:
    """Draw scores of edges as a map of readers (rows, the first layer below) against writers (columns).

    Values are shares of the gap between clean and corrupted, blue where an edge supports the clean answer.
    ``by="node"`` has a row for every input of every node (``L9H6 query``) and a column for every writer;
    ``"layer"`` adds up the heads of each layer; by default nodes up to 110 readers. ``positions="each"``
    draws a map a position, ``"sum"`` adds them up. A few edges carry most, so colours follow the square root
    of the size unless ``root`` is false; hover and the colour bar tell values. Grey: no such edge.

    Raises :class:`CircuitError` for an unknown option, and positions that the scores have not.
    """
    graph = scores.graph
    by = _check_options(graph, by, positions)
    values, effects = (_to_table(graph, t.double().cpu().numpy()) for t in (scores.values, scores.effects))
    if by == "layer":
        values, effects = (_add_layers(graph, table) for table in (values, effects))
    if positions == "each":
        names = [_name_position(graph, i) for i in range(graph.n_positions)]
    else:
        values, effects = (_sum_known(table, -1)[..., None] for table in (values, effects))
        names = ["readers against writers"]
    shown = np.sign(values) * np.sqrt(np.abs(values)) if root else values
    sheet = Sheet()
    axis = sheet.add_color_axis(_scale(shown, root))
    readers, writers = _names(graph, by)
    for i, name in enumerate(names):
        details = np.stack([values[..., i], effects[..., i]], axis=-1)
        _add_map(sheet, name, shown[..., i], details, readers, writers, axis, len(names) == 1)
    sheet.start_band()
    _add_top(sheet, scores)
    if positions == "sum" and graph.positions:
        sheet.add_note("positions added")
    if by == "layer":
        sheet.add_note("heads of a layer added")
    if root:
        sheet.add_note("colours by the square root of the size")
    done = describe_patch(replace(scores.provenance, direction=scores.direction))
    return sheet.finish(f"Scores of {graph.n_edges:,} edges: {done}", _subtitle(scores))


def _check_options(graph: Graph, by: By | None, positions: Positions) -> By:
    if by is not None and by not in get_args(By):
        raise CircuitError(unknown_name("grouping", str(by), get_args(By)))
    if positions not in get_args(Positions):
        raise CircuitError(unknown_name("treatment of positions", str(positions), get_args(Positions)))
    if positions == "each" and not graph.positions:
        raise CircuitError("these scores take all positions together; draw them with positions='sum'.")
    return by or ("node" if len(graph.readers) <= _MOST_NAMED else "layer")


def _to_table(graph: Graph, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[reader, writer, position], NaN where there is no edge."""
    table = np.full((len(graph.readers), len(graph.writers), graph.n_positions), np.nan)
    pairs = values.reshape(-1, graph.n_positions)
    for number, reach in enumerate(graph.reach):
        table[number, :reach] = pairs[graph.offsets[number] : graph.offsets[number + 1]]
    return table


def _add_layers(graph: Graph, table: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = _sum_groups(table, [_reader_group(reader) for reader in graph.readers])
    return _sum_groups(rows.swapaxes(0, 1), [_writer_group(w) for w in graph.writers]).swapaxes(0, 1)


def _sum_groups(table: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Sums of the first axis over equal groups, in the order of their first member."""
    known = list(dict.fromkeys(groups))
    numbers = np.array([known.index(group) for group in groups])
    return np.stack([_sum_known(table[numbers == i], 0) for i in range(len(known))])


def _sum_known(table: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The sum of what is no NaN; NaN where nothing is."""
    return np.where(np.isnan(table).all(axis), np.nan, np.nansum(table, axis))


def _reader_group(reader: Reader) -> tuple[int, str]:
    return reader.layer, reader.kind if reader.kind in ("q", "k", "v", "logits") else "MLP"


def _writer_group(writer: Writer) -> tuple[int, str]:
    return writer.layer, {"input": "input", "head": "heads"}.get(writer.kind, "MLP")


def _names(graph: Graph, by: By) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Name and layer of every row and column."""
    if by == "layer":
        rows = dict.fromkeys(map(_reader_group, graph.readers))
        columns = dict.fromkeys(map(_writer_group, graph.writers))
        return [(_name_group(*row), row[0]) for row in rows], [(_name_group(*c), c[0]) for c in columns]
    readers = [(show_reader(graph, number), reader.layer) for number, reader in enumerate(graph.readers)]
    return readers, [(show_node(graph, i), writer.layer) for i, writer in enumerate(graph.writers)]


def _name_group(layer: int, kind: str) -> str:
    name = {"q": "queries", "k": "keys", "v": "values"}.get(kind, kind)
    return name if name in ("input", "logits") else f"L{layer} {name}"


def _name_position(graph: Graph, position: int) -> str:
    name = graph.positions[position]
    return f"{name} {visible_token(graph.position_tokens[position])}" if graph.position_tokens else name


def _scale(shown: NDArray[np.float64], root: bool) -> ColorScale:
    scale = signed_scale([shown], "share of the gap")
    if not root:
        return scale
    ticks = [(part * scale.high, part * abs(part) * scale.high**2) for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    texts = tuple((place, f"{value:.2g}".replace("-", "−")) for place, value in ticks)
    return ColorScale(scale.colors, scale.low, scale.high, scale.title, texts)


def _add_map(
    sheet: Sheet,
    title: str,
    z: NDArray[np.float64],
    details: NDArray[np.float64],
    readers: Sequence[tuple[str, int]],
    writers: Sequence[tuple[str, int]],
    color_axis: str,
    alone: bool,
) -> None:
    """One panel; ``details`` are value and effect of every cell. Smaller where it is not ``alone``."""
    y, x = (name_ticks([name for name, _ in names], "") for names in (readers, writers))
    room = (620, 760) if alone else (290, 560)
    cell = (fit_cell(len(x), room[0], 5, 26), fit_cell(len(y), room[1], 3, 18))
    across, apart = _layered_axis(x, writers, cell[0])
    panel = sheet.add_panel(title, len(x) * cell[0], len(y) * cell[1], **label_room(x, y, apart))
    panel.color_axis = color_axis
    fill_behind(sheet, panel, _NO_EDGE)
    sheet.figure.add_trace(
        go.Heatmap(
            z=z,
            x=list(x.keys),
            y=list(y.keys),
            coloraxis=color_axis,
            customdata=details,
            hovertemplate="<b>%{x} → %{y}</b><br>%{customdata[0]:+.3f} of the gap<br>"
            "effect on the metric %{customdata[1]:+.3g}<extra></extra>",
            hoverongaps=False,
            name=escape_text(title),
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = across | dict(tickangle=-90 if turns_labels(x, apart) else 0)
    sheet.figure.layout[f"yaxis{number}"] = _layered_axis(y, readers, cell[1])[0]
    for names, upright in ((writers, True), (readers, False)):
        for place in _layer_starts(names)[1:]:
            _separate(sheet, panel, place - 0.5, upright)


def _layered_axis(
    ticks: Ticks, names: Sequence[tuple[str, int]], pitch: float
) -> tuple[dict[str, Any], float]:
    """An axis that names every entry or, where these would touch, every layer; and pixels between names."""
    axis = category_axis(ticks, pitch)
    if pitch >= SMALLEST_TICK:
        return axis, pitch
    starts = _layer_starts(names)
    ends = [*starts[1:], len(names)]
    middles = [(start + end - 1) // 2 for start, end in zip(starts, ends, strict=True)]
    single = [end - start == 1 for start, end in zip(starts, ends, strict=True)]
    texts = [
        escape_text(names[start][0] if alone else f"layer {names[start][1]}")
        for start, alone in zip(starts, single, strict=True)
    ]
    room = min((b - a) * pitch for a, b in itertools.pairwise(middles)) if len(middles) > 1 else math.inf
    found = dict(tickvals=[ticks.keys[i] for i in middles], ticktext=texts, tickfont=dict(size=TICK_SIZE))
    return axis | found, room


def _layer_starts(names: Sequence[tuple[str, int]]) -> list[int]:
    """Where each layer begins."""
    return [i for i, (_, layer) in enumerate(names) if i == 0 or layer != names[i - 1][1]]


def _separate(sheet: Sheet, panel: Panel, place: float, upright: bool) -> None:
    """A line between two layers."""
    ends = dict(xref=panel.xaxis, yref=f"{panel.yaxis} domain", x0=place, x1=place, y0=0, y1=1)
    if not upright:
        ends = dict(xref=f"{panel.xaxis} domain", yref=panel.yaxis, x0=0, x1=1, y0=place, y1=place)
    sheet.figure.add_shape(type="line", line=dict(color=_LINE, width=1), **ends)


def _add_top(sheet: Sheet, scores: EdgeScores) -> None:
    ranked = scores.top(_TABLE_ROWS)
    columns = [
        ("edge", [show_edge(scores.graph, row.edge) for row in ranked]),
        ("share of the gap", [_signed(row.value) for row in ranked]),
        ("effect on the metric", [_signed(row.effect) for row in ranked]),
    ]
    add_table(sheet, f"the {len(ranked)} largest", columns)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _subtitle(scores: EdgeScores) -> str:
    text = (
        f"{scores.provenance.summary()} · share of the gap between corrupted (0, {scores.corrupted:.3g}) and clean "
        f"(1, {scores.clean:.3g}) that each edge alone carries"
    )
    return text + (
        " · undefined, for clean and corrupted are equal" if scores.clean == scores.corrupted else ""
    )
