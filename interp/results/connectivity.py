"""Which edges of a circuit can matter: those on some way from the input to the logits."""

from __future__ import annotations

import numpy as np

from interp.results.graph import Graph


def keep_connected(graph: Graph, included: np.ndarray) -> np.ndarray:
    """[edge] The included edges that lie on a path of included edges from the input to the logits.

    A node that nothing of the circuit enters puts out what it does outside of it, so its edges carry
    nothing; a node from which nothing leads to the logits changes nothing. What a head writes at
    a position depends on its query there and on keys and values there and before. Error terms of coders
    begin paths as the input does.
    """
    forth = included & _begun(graph, included)
    return forth & _needed(graph, forth)


def _begun(graph: Graph, included: np.ndarray) -> np.ndarray:
    """[edge] Whether the writer is reached from the input."""
    n = graph.n_positions
    alive = np.zeros((len(graph.writers), n), dtype=bool)
    alive[0] = True
    fed = {node for nodes in graph.fed for node in nodes}
    for number in range(1, len(graph.writers)):
        alive[number] = number not in fed
    found = np.zeros_like(included)
    for number, reader in enumerate(graph.readers):
        part = _edges_into(graph, number)
        sees = alive[: graph.reach[number]]
        found[part] = sees.ravel()
        got = (included[part].reshape(sees.shape) & sees).any(0)
        if reader.kind == "logits":
            continue
        if reader.kind in ("k", "v"):
            got = np.logical_or.accumulate(got) if graph.positions_in_order else np.full(n, got.any())
        for node in graph.fed[number]:
            alive[node] |= got
    return found


def _needed(graph: Graph, included: np.ndarray) -> np.ndarray:
    """[edge] Whether what the reader makes of it leads to the logits."""
    n = graph.n_positions
    useful = np.zeros((len(graph.nodes), n), dtype=bool)
    useful[-1] = True
    found = np.zeros_like(included)
    for number in range(len(graph.readers) - 1, -1, -1):
        wanted = np.logical_or.reduce([useful[node] for node in graph.fed[number]])
        if graph.readers[number].kind in ("k", "v"):
            later = np.logical_or.accumulate(wanted[::-1])[::-1]
            wanted = later if graph.positions_in_order else np.full(n, wanted.any())
        part = _edges_into(graph, number)
        reach = graph.reach[number]
        found[part] = np.tile(wanted, reach)
        useful[:reach] |= included[part].reshape(reach, n) & wanted
    return found


def _edges_into(graph: Graph, reader: int) -> slice:
    n = graph.n_positions
    return slice(int(graph.offsets[reader]) * n, int(graph.offsets[reader + 1]) * n)
