"""Choosing a circuit from scores of edges."""

from __future__ import annotations

import heapq
from typing import Literal, get_args

import numpy as np
import torch

from interp.errors import CircuitError, unknown_name
from interp.results import Circuit, EdgeScores, Graph

Choice = Literal["top", "greedy"]


def choose_circuit(
    scores: EdgeScores,
    edges: float | int | None = None,
    *,
    threshold: float | None = None,
    how: Choice = "top",
    signed: bool = False,
    prune: bool = True,
) -> Circuit:
    """A circuit of the edges with the largest scores.

    ``edges`` is their number (an ``int``) or their share of all edges (a ``float`` up to 1.0: ``0.02``
    is 2 %); ``threshold`` takes instead every edge that carries at least that share of the gap between
    clean and corrupted (:attr:`EdgeScores.values`). ``how="top"`` takes the largest magnitudes;
    ``"greedy"`` begins at the logits and adds the largest edge into what is reached already (Hanna et al.
    2024, arXiv 2403.17806, section 3), so nothing it chooses is cut off from the logits. ``signed``
    takes edges that support the clean answer only. ``prune`` drops what lies on no path from the input to
    the logits, so the circuit may be smaller than asked for; its ``n_edges`` is what was realised.

    Raises :class:`CircuitError` for anything but scores of edges, unless exactly one of ``edges`` and
    ``threshold`` is given, for a number of edges that the graph has not, for a threshold that is not positive,
    and for scores that are NaN.
    """
    if not isinstance(scores, EdgeScores):
        raise CircuitError(
            f"circuits are chosen from scores of edges (interp.score_edges); got {type(scores).__name__}."
        )
    if how not in get_args(Choice):
        raise CircuitError(unknown_name("way to choose edges", str(how), get_args(Choice)))
    if (edges is None) == (threshold is None):
        raise CircuitError("give either edges (a number or a share) or a threshold.")
    strength = edge_strength(scores, signed)
    graph = scores.graph
    if threshold is not None:
        if not isinstance(threshold, int | float) or not threshold > 0:
            raise CircuitError(f"a threshold is a positive share of the gap; got {threshold!r}.")
        limit, n = threshold, graph.n_edges
        text = f"edges that carry at least {threshold:g} of the gap"
    else:
        assert edges is not None
        limit, n = None, count_edges(edges, graph.n_edges)
        text = f"{n} edges" + (f" ({edges:.3g} of all)" if isinstance(edges, float) else "")
    greedy = how == "greedy"
    included = take_greedily(graph, strength, n, limit) if greedy else take_top(strength, n, limit)
    ranked = "supporting " * signed + ("greedily from the logits" if greedy else "largest")
    circuit = Circuit(
        graph, torch.from_numpy(included), f"{text}, {ranked}", scores.provenance, scores.values.cpu()
    )
    return circuit.prune() if prune else circuit


def count_edges(edges: float | int, n_edges: int) -> int:
    """How many edges a number or a share means: of a share at least one.

    Raises :class:`CircuitError` for a number outside 1..n_edges and for a share outside (0, 1].
    """
    if isinstance(edges, bool) or not isinstance(edges, int | float):
        raise CircuitError(f"edges is a number or a share of all edges; got {edges!r}.")
    if isinstance(edges, int):
        if not 1 <= edges <= n_edges:
            raise CircuitError(f"the graph has {n_edges} edges; got edges={edges}. A share is written 0.02.")
        return edges
    if not 0 < edges <= 1:
        raise CircuitError(f"a share of all edges lies above 0 and up to 1.0; got {edges}.")
    return max(1, round(edges * n_edges))


def edge_strength(scores: EdgeScores, signed: bool = False) -> np.ndarray:
    """[edge] What edges are ranked by, on the scale of :attr:`EdgeScores.values`; below 0 never taken."""
    values = scores.values.double().cpu()
    if bool(values.isnan().any()):
        raise CircuitError(
            "the scores are NaN, so no edge is stronger than another: the metric is the same for the clean and "
            "the corrupted prompts, or an estimate went wrong."
        )
    gap = abs(scores.clean - scores.corrupted)
    size = scores.magnitudes.double().cpu() / gap
    found: np.ndarray = torch.where(values > 0, values, -1.0).numpy() if signed else size.numpy()
    return found


def take_top(strength: np.ndarray, n: int, limit: float | None = None) -> np.ndarray:
    """[edge] The ``n`` strongest, equal ones in their order; with ``limit`` only those at or above it."""
    included = np.zeros(len(strength), dtype=bool)
    included[np.argsort(-strength, kind="stable")[:n]] = True
    return included & (strength >= (0 if limit is None else limit))


def take_greedily(graph: Graph, strength: np.ndarray, n: int, limit: float | None = None) -> np.ndarray:
    """[edge] ``n`` edges, each the strongest of those that end in what was reached from the logits so far."""
    included = np.zeros(graph.n_edges, dtype=bool)
    waiting: list[tuple[float, int]] = []
    entered: set[tuple[int, int]] = set()
    feeds: list[list[int]] = [[] for _ in graph.nodes]
    for number, nodes in enumerate(graph.fed):
        for node in nodes:
            feeds[node].append(number)
    columns = graph.n_positions

    def reach(reader: int, place: int) -> None:
        if (reader, place) in entered:
            return
        entered.add((reader, place))
        first = int(graph.offsets[reader]) * columns + place
        numbers = range(first, first + int(graph.reach[reader]) * columns, columns)
        for edge in numbers:
            if strength[edge] >= (0 if limit is None else limit):
                heapq.heappush(waiting, (-float(strength[edge]), edge))

    def reach_node(node: int, place: int) -> None:
        for reader in feeds[node]:
            moved = graph.readers[reader].kind in ("k", "v")
            last = place + 1 if graph.positions_in_order else columns
            for source in range(last) if moved else (place,):
                reach(reader, source)

    for place in range(columns):
        reach_node(len(graph.nodes) - 1, place)
    taken = 0
    while waiting and taken < n:
        _, edge = heapq.heappop(waiting)
        included[edge] = True
        taken += 1
        reach_node(int(graph.edge_writer[edge]), int(graph.edge_position[edge]))
    return included
