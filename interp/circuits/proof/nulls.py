"""Random circuits: what any circuit of that size would do.

Which random circuits are fair is not obvious. Of edges drawn at random (``"uniform"``, and ``"degree"``: as
many into every reader as the circuit has) few lie on a way from the input to the logits while circuits are
small, so they are empty almost surely and any circuit at all beats them. ``"connected"`` circuits are made
of random ways from the input to the logits, as in Shi et al. 2024 (arXiv 2410.13032, sufficiency test): every
edge of theirs can carry something, and to beat them is to have chosen well.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, get_args

import numpy as np

from interp.errors import CircuitError, unknown_name
from interp.results import Graph

Null = Literal["connected", "degree", "uniform"]
NULLS: tuple[Null, ...] = get_args(Null)

_STALE = 20
"""Ways in a row that do not fit before single edges are drawn; more of them where that did not help."""
_MOST_STALE = 2000
_PATIENCE = 10_000
"""Ways drawn for one that is new."""


def check_nulls(nulls: tuple[str, ...]) -> None:
    """Raise :class:`CircuitError` for a kind of random circuit that there is not."""
    for null in nulls:
        if null not in NULLS:
            raise CircuitError(unknown_name("kind of random circuit", str(null), NULLS))


def read_places(graph: Graph, marked: np.ndarray) -> np.ndarray:
    """[position] At which positions marked edges enter the logits; all positions where none does.

    Only these can end a way: with positions told apart, the logits of most are never looked at.
    """
    at_logits = graph.edge_reader == len(graph.readers) - 1
    places = np.zeros(graph.n_positions, dtype=bool)
    places[graph.edge_position[at_logits & marked]] = True
    return places if places.any() else np.ones_like(places)


class RandomCircuits:
    """Draws random circuits of a graph; ``ends`` [position] are where a way may reach the logits."""

    def __init__(self, graph: Graph, rng: np.random.Generator, ends: np.ndarray | None = None) -> None:
        self.graph = graph
        self.rng = rng
        self.ends = np.ones(graph.n_positions, dtype=bool) if ends is None else ends

    @cached_property
    def _readers_of(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.graph.reach > writer) for writer in range(len(self.graph.writers))]

    def draw(self, kind: Null, like: np.ndarray) -> np.ndarray:
        """[edge] A circuit with as many edges as ``like`` [edge]; see :class:`RandomCircuits` for the kinds."""
        if kind == "degree":
            return self.match_degrees(like)
        n = int(like.sum())
        return self.connected(n) if kind == "connected" else self.uniform(n)

    def uniform(self, n: int) -> np.ndarray:
        """[edge] ``n`` edges, every set of them equally likely."""
        included = np.zeros(self.graph.n_edges, dtype=bool)
        included[self.rng.permutation(self.graph.n_edges)[:n]] = True
        return included

    def match_degrees(self, like: np.ndarray) -> np.ndarray:
        """[edge] As many edges into every reader, at every position, as ``like`` has; their writers at random."""
        graph = self.graph
        n = graph.n_positions
        included = np.zeros_like(like)
        order = self.rng.random(graph.n_edges)
        for reader in np.unique(graph.edge_reader[like]):
            part = slice(int(graph.offsets[reader]) * n, int(graph.offsets[reader + 1]) * n)
            ranks = order[part].reshape(-1, n).argsort(0).argsort(0)
            included[part] = (ranks < like[part].reshape(-1, n).sum(0)).ravel()
        return included

    def connected(self, n: int) -> np.ndarray:
        """[edge] ``n`` edges that all lie on ways of theirs from the input to the logits.

        Whole ways are added while they fit, then single edges between what is in the circuit already,
        and so on in turn. Where neither fits, as may be for a handful of edges, there are fewer than ``n``.
        """
        included = np.zeros(self.graph.n_edges, dtype=bool)
        patience = _STALE
        while (left := n - int(included.sum())) and patience <= _MOST_STALE:
            if not self._add_ways(included, left, patience):
                patience *= 4
            chords = np.flatnonzero(self._chords(included))
            included[self.rng.permutation(chords)[: n - int(included.sum())]] = True
        return included

    def _add_ways(self, included: np.ndarray, left: int, patience: int) -> bool:
        """Add ways of ``left`` new edges at most, until so many in a row do not fit; whether any did."""
        stale, added = 0, False
        while left and stale < patience:
            way = np.array(self.way())
            new = way[~included[way]]
            if 0 < len(new) <= left:
                included[new] = True
                left, stale, added = left - len(new), 0, True
            else:
                stale += 1
        return added

    def _chords(self, included: np.ndarray) -> np.ndarray:
        """[edge] Edges not in a connected circuit that join what writes in it to what reads in it."""
        graph = self.graph
        writes = np.zeros((len(graph.writers), graph.n_positions), dtype=bool)
        reads = np.zeros((len(graph.readers), graph.n_positions), dtype=bool)
        writes[0] = True
        reads[-1] = self.ends
        writes[graph.edge_writer[included], graph.edge_position[included]] = True
        reads[graph.edge_reader[included], graph.edge_position[included]] = True
        joined = (
            writes[graph.edge_writer, graph.edge_position] & reads[graph.edge_reader, graph.edge_position]
        )
        found: np.ndarray = joined & ~included
        return found

    def way(self) -> list[int]:
        """Edges of a random walk from the input: at every node any reader that sees it, each as likely.

        Walks that end at a position where the logits are not looked at are drawn again.
        """
        graph, rng = self.graph, self.rng
        logits = len(graph.readers) - 1
        while True:
            node, place, way = 0, int(rng.integers(graph.n_positions)), []
            reader = -1
            while reader != logits:
                readers = self._readers_of[node]
                reader = int(readers[rng.integers(len(readers))])
                way.append(graph.edge_number(node, reader, place))
                fed = graph.fed[reader]
                node = fed[int(rng.integers(len(fed)))]
                if graph.readers[reader].kind in ("k", "v"):
                    first = place if graph.positions_in_order else 0
                    place = int(rng.integers(first, graph.n_positions))
            if self.ends[place]:
                return way

    def new_way(self, included: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Edges of a random way that are not all included, and those of them that are not.

        Raises :class:`CircuitError` where no way is found, for the circuit has nearly every edge.
        """
        for _ in range(_PATIENCE):
            way = np.array(self.way())
            new = way[~included[way]]
            if len(new):
                return way, new
        raise CircuitError(
            f"no edge outside the circuit was found on {_PATIENCE} random ways; it has {int(included.sum())} of "
            f"{self.graph.n_edges} edges, so there is nothing to compare it with."
        )
