"""Where the nodes of a circuit stand in its picture, in pixels from the bottom left, and how edges bend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from interp.plots.sheet import text_width
from interp.results.circuit import Circuit
from interp.results.circuit_plan import CircuitPlan, Spot, show_spot
from interp.results.graph import LOGITS, Graph

NODE_TEXT = 10
"""Font size of a node's name."""
NODE_HEIGHT = 18
KEYS_TEXT = 9
"""The same where only keys and values are read."""
_GAP = 8
"""Pixels between two nodes of a cell."""
_MARGIN = 44
"""Pixels left and right of all columns, for edges that bow out."""
_NARROWEST = 520
"""Pixels of all columns together; fewer are stretched."""
_ROW, _EMPTY_ROW = 66, 12
_EMPTY_COLUMN = {"position": 20.0, "head": 14.0}
_MLPS = "MLP"
_STEPS = 24
"""Points of a curve."""
_BOWS = (0, 36, -36, 56, -56, 80, -80)
"""Pixels by which the handles of a curve stand aside, in the order they are tried; a curve goes 3/4 as far."""
_MIDDLE = 9

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y of its points."""


@dataclass(frozen=True)
class Box:
    """A node as it is drawn; keys and values read apart are a box without a frame."""

    x: float
    """Of its middle; ``y`` likewise."""
    y: float
    width: float
    keys: bool = False

    @property
    def top(self) -> float:
        """Where edges leave."""
        return self.y + NODE_HEIGHT / 2

    @property
    def bottom(self) -> float:
        """Where edges arrive."""
        return self.y - NODE_HEIGHT / 2

    def port(self, kind: str) -> float:
        """Where along the bottom an edge of a kind arrives: queries left, keys, then values."""
        places = {"k": -0.12, "v": 0.12} if self.keys else {"q": -0.3, "v": 0.3}
        return self.x + places.get(kind, 0.0) * self.width


@dataclass(frozen=True)
class CircuitLayout:
    """Every spot's box, and the rows and columns they stand in."""

    boxes: dict[Spot, Box]
    columns: tuple[tuple[str, float, float], ...]
    """Name, left and right end; positions in their order, or heads and then the MLPs."""
    rows: tuple[tuple[str, float], ...]
    """Name and middle of every row that holds a node, the lowest first."""
    absent: tuple[tuple[float, float], ...]
    """Where heads and MLPs that are not in the circuit would stand."""
    width: float
    height: float


def lay_out(plan: CircuitPlan, by: str) -> CircuitLayout:
    """Place every spot: columns are positions (``by="position"``) or heads (``"head"``), rows are layers.

    A column is as wide as its fullest row; rows and columns without a node are narrow.
    """
    graph = plan.graph
    names = _column_names(graph, by)
    cells: dict[tuple[int, int], list[Spot]] = {}
    for spot in plan.spots:
        cells.setdefault((_column(graph, spot, by), _row(graph, spot.node)), []).append(spot)
    widths: list[float] = [_EMPTY_COLUMN[by]] * len(names)
    for (column, _), spots in cells.items():
        if column >= 0:
            widths[column] = max(widths[column], sum(_width(graph, spot) + _GAP for spot in spots) + _GAP)
    stretch = max(1.0, _NARROWEST / sum(widths))
    edges = _MARGIN + stretch * np.concatenate([[0.0], np.cumsum(widths)])
    used = {row for _, row in cells}
    middles, height = _stack_rows(used, _row(graph, len(graph.writers)) + 1)
    boxes = {}
    for (column, row), spots in cells.items():
        middle = (edges[0] + edges[-1]) / 2 if column < 0 else (edges[column] + edges[column + 1]) / 2
        left = middle - (sum(_width(graph, spot) + _GAP for spot in spots) - _GAP) / 2
        for spot in spots:
            width = _width(graph, spot)
            boxes[spot] = Box(left + width / 2, middles[row], width, spot.kind == "keys")
            left += width + _GAP
    return CircuitLayout(
        boxes=boxes,
        columns=tuple((name, edges[i], edges[i + 1]) for i, name in enumerate(names)),
        rows=tuple((_row_name(graph, row), middles[row]) for row in sorted(used)),
        absent=_absent(plan, edges, middles) if by == "head" else (),
        width=float(edges[-1]) + _MARGIN,
        height=height,
    )


def merge_positions(circuit: Circuit) -> Circuit:
    """The circuit with all positions taken together; values of an edge's positions are added."""
    graph = replace(circuit.graph, positions=(), position_tokens=())
    included = circuit.included.view(graph.n_edges, -1)
    values = None
    if circuit.values is not None:
        values = torch.where(included, circuit.values.view(graph.n_edges, -1), 0.0).sum(1)
    return replace(circuit, graph=graph, included=included.any(1), values=values)


def _column_names(graph: Graph, by: str) -> list[str]:
    if by == "position":
        return list(graph.positions)
    return [str(head) for head in range(graph.n_heads)] + ([_MLPS] if graph.d_mlp else [])


def _column(graph: Graph, spot: Spot, by: str) -> int:
    """-1 for what stands in the middle of its row."""
    if by == "position":
        return spot.position
    if spot.node == len(graph.writers) or graph.writers[spot.node].kind == "input":
        return -1
    writer = graph.writers[spot.node]
    return writer.index if writer.kind == "head" else graph.n_heads


def _row(graph: Graph, node: int) -> int:
    """0 for the input; then attention and MLP of each layer, in one row where they run side by side."""
    if node == len(graph.writers):
        return 2 * graph.n_layers + 1
    writer = graph.writers[node]
    if writer.kind == "input":
        return 0
    above = writer.kind != "head" and not graph.parallel_blocks
    return 2 * writer.layer + 1 + above


def _row_name(graph: Graph, row: int) -> str:
    if row in (0, 2 * graph.n_layers + 1):
        return "input" if row == 0 else LOGITS
    layer, above = divmod(row - 1, 2)
    if graph.parallel_blocks:
        return f"layer {layer}"
    return f"layer {layer} MLP" if above else f"layer {layer} heads"


def spot_text(graph: Graph, spot: Spot) -> str:
    """What is written at a spot."""
    return show_spot(graph, spot).removesuffix(" keys and values")


def _width(graph: Graph, spot: Spot) -> float:
    text = spot_text(graph, spot)
    return (
        text_width(text, KEYS_TEXT) + 2 if spot.kind == "keys" else max(text_width(text, NODE_TEXT) + 10, 34)
    )


def _stack_rows(used: set[int], n: int) -> tuple[list[float], float]:
    """The middle of each row from the bottom, and the height of all."""
    middles, y = [], 0.0
    for row in range(n):
        room: float = _ROW if row in used else _EMPTY_ROW
        # the first and last row need no room for edges beyond them
        if row in (0, n - 1) and row in used:
            room = _ROW / 2
            middles.append(y + (NODE_HEIGHT / 2 + 6 if row == 0 else room - NODE_HEIGHT / 2 - 6))
        else:
            middles.append(y + room / 2)
        y += room
    return middles, y


def _absent(
    plan: CircuitPlan, edges: NDArray[np.float64], middles: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    graph = plan.graph
    present = {spot.node for spot in plan.spots if spot.kind == "node"}
    found = []
    for node, writer in enumerate(graph.writers):
        if node in present or writer.kind not in ("head", "mlp"):
            continue
        column = writer.index if writer.kind == "head" else graph.n_heads
        if graph.units_of(writer.layer) is None or writer.kind == "head":
            found.append((float(edges[column] + edges[column + 1]) / 2, middles[_row(graph, node)]))
    return tuple(found)


def bend_edge(layout: CircuitLayout, source: Box, target: Box, kind: str, side: int) -> Curve:
    """Points of the curve from the top of a node to the port of another above it, upright at both ends.

    It bows out, first to the ``side`` given (1 or -1), as far as it must to run over the fewest other nodes.
    """
    x0, y0, x1, y1 = source.x, source.top, target.port(kind), target.bottom
    lift = 0.45 * (y1 - y0)
    others = [box for box in layout.boxes.values() if y0 < box.y < y1]
    best: tuple[int, Curve] | None = None
    for bow in _BOWS:
        aside = side * bow
        curve = _bezier((x0, x0 + aside, x1 + aside, x1), (y0, y0 + lift, y1 - lift, y1))
        hit = _count_hits(curve, others)
        if best is None or hit < best[0]:
            best = hit, curve
        if hit == 0:
            break
    assert best is not None
    return best[1]


def _count_hits(curve: Curve, boxes: Sequence[Box]) -> int:
    """Nodes that a curve runs over; one right through the middle counts thrice, for it seems to end there."""
    if not boxes:
        return 0
    x, y = (np.array([getattr(box, name) for box in boxes])[:, None] for name in ("x", "y"))
    half = np.array([box.width / 2 + 3 for box in boxes])[:, None]
    away = np.abs(curve[0] - x)
    level = np.abs(curve[1] - y) < NODE_HEIGHT / 2 + 4
    return int((level & (away < half)).any(1).sum() + 2 * (level & (away < _MIDDLE)).any(1).sum())


def bend_move(source: Box, target: Box) -> Curve:
    """Points of the curve below a row from where keys and values are read to where the head acts."""
    x0, x1, y = source.x, target.x, target.bottom
    depth = min(10.0 + 0.04 * abs(x1 - x0), 24.0)
    return _bezier((x0, x0, x1, x1), (y, y - depth, y - depth, y))


def _bezier(x: Sequence[float], y: Sequence[float]) -> Curve:
    t = np.linspace(0.0, 1.0, _STEPS)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return np.asarray(x) @ weights, np.asarray(y) @ weights
