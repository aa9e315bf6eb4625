"""Where scores of edges add up: gradients at readers against changes of writers, a tile at a time.

A tile holds what some writers add to the residual stream, and what some readers make of the gradient
there, of a few prompts and columns; a matrix product of the two adds to the scores of all their pairs.
Nothing of the size of all writers times the residual stream is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.gradients.readers import Readers, Reading, Rows
from interp.circuits.gradients.writers import Outputs, Writers
from interp.kernels.edge_scores import pairs_run_as_kernel, score_pairs, sum_by_place
from interp.patching.attribution.nodes import Node
from interp.results import Graph

_WRITERS_AT_ONCE = 128
"""So many writers share a tile before it takes more columns; more make its matrix product no faster."""
_READERS_AT_ONCE = 128
"""So many readers share a launch of the kernel, which reads the writers' outputs once for all of them."""

PairScores = Float[Tensor, "prompt reader writer place"]
Batch = Sequence[tuple[Reading, slice]]
"""Readings, and which of their readers."""


@dataclass(frozen=True)
class _Tile:
    """How much a tile holds."""

    prompts: int
    columns: int
    writers: int
    readers: int

    @classmethod
    def within(
        cls, size: int, n_prompts: int, n_columns: int, d_model: int, writers: int, readers: int
    ) -> _Tile:
        """At most ``size`` numbers, where one writer and one reader at one column do not take more."""
        needed = writers + readers
        columns = min(n_columns, max(1, size // (d_model * min(needed, _WRITERS_AT_ONCE))))
        prompts = min(n_prompts, max(1, size // (d_model * columns * needed)))
        both = max(2, size // (d_model * columns * prompts))
        at_once = min(readers, both // 2)
        return cls(prompts, columns, min(writers, both - at_once), at_once)


class EdgeTotals:
    """Scores of every edge and prompt, which grow as gradients arrive."""

    def __init__(
        self,
        graph: Graph,
        writers: Writers,
        readers: Readers,
        places: Int[Tensor, "prompt pos"],
        dtype: torch.dtype,
        size: int,
    ) -> None:
        self.graph = graph
        self.writers = writers
        self.readers = readers
        self.places = places
        """The position in the graph of each column that can change, -1 on padding."""
        self.weight = 1.0
        """What gradients count for."""
        self.sources = range(len(graph.writers))
        """Writers whose edges are scored."""
        self.size = size
        """Of a tile, and of what may wait."""
        self._waiting: list[Reading] = []
        self._reach = torch.from_numpy(graph.reach).to(places.device)
        self.scores: Float[Tensor, "prompt edge"] = torch.zeros(
            len(places), graph.n_edges, dtype=dtype, device=places.device
        )

    def take(
        self,
        node: Node,
        gradient: Float[Tensor, "prompt pos ..."],
        x: Float[Tensor, "prompt pos d_model"] | None,
    ) -> None:
        """Score all edges into the readers of a node; ``x`` is what the norm before them read.

        Readers wait until there are enough of them for the same tiles; see :meth:`flush`.
        """
        for reading in self.readers.read(node, self.weight * self.without_padding(gradient), x):
            if self.graph.reach[reading.first] > self.sources.start:
                self._waiting.append(reading)
        if sum(reading.n_held for reading in self._waiting) > self.size:
            self.flush()

    def without_padding(self, value: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "prompt pos ..."]:
        """Zero in padding columns, where it may be NaN; in fp32 at least."""
        real = (self.places >= 0).view(*self.places.shape, *[1] * (value.ndim - 2))
        return torch.where(real, value, 0.0).to(torch.promote_types(value.dtype, torch.float32))

    def flush(self) -> None:
        """Score the edges into all readers that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        stop = min(self.sources.stop, max(int(self.graph.reach[reading.first]) for reading in waiting))
        n_prompts, n_columns = self.places.shape
        shared = pairs_run_as_kernel(self.scores)
        n_readers = max(reading.n for reading in waiting)
        if shared:
            n_readers = max(n_readers, min(_READERS_AT_ONCE, sum(reading.n for reading in waiting)))
        n_writers, d_model = stop - self.sources.start, self.writers.d_model
        tile = _Tile.within(self.size, n_prompts, n_columns, d_model, n_writers, n_readers)
        batches = _batches(waiting, tile.readers, shared)
        for prompts in _parts(0, n_prompts, tile.prompts):
            for columns in _parts(0, n_columns, tile.columns):
                for some in _parts(self.sources.start, stop, tile.writers):
                    outputs = self.writers.outputs(some.start, some.stop, prompts, columns)
                    for batch in batches:
                        self._add_batch(batch, outputs, some.start, prompts, columns)

    def _add_batch(self, batch: Batch, outputs: Outputs, start: int, prompts: slice, columns: slice) -> None:
        seen = [min(int(self.graph.reach[reading.first]) - start, len(outputs)) for reading, _ in batch]
        batch = [part for part, n in zip(batch, seen, strict=True) if n > 0]
        seen = [n for n in seen if n > 0]
        if not batch:
            return
        reach = None
        if len(set(seen)) > 1:
            numbers = [
                slice(reading.first + part.start, reading.first + part.stop) for reading, part in batch
            ]
            reach = torch.cat([self._reach[some] for some in numbers]) - start
        found = score_pairs(
            outputs[: max(seen)],
            self._rows(batch, outputs, prompts, columns),
            reach=reach,
            places=None if self.graph.n_positions == 1 else self.places[prompts, columns],
            n_places=self.graph.n_positions,
        )
        parts = found.split([part.stop - part.start for _, part in batch], dim=1)
        for (reading, readers), part, n in zip(batch, parts, seen, strict=True):
            self.add(reading.first + readers.start, start, part[:, :, :n], prompts)

    def _rows(self, batch: Batch, outputs: Outputs, prompts: slice, columns: slice) -> Rows:
        """The gradients of all readers of a batch, one after another."""
        if len(batch) == 1:
            reading, readers = batch[0]
            return reading.rows(readers, prompts, columns)
        found = outputs.new_empty(sum(part.stop - part.start for _, part in batch), *outputs.shape[1:])
        first = 0
        for reading, readers in batch:
            n = readers.stop - readers.start
            found[first : first + n] = reading.rows(readers, prompts, columns)
            first += n
        return found

    def by_place(self, each: Float[Tensor, "prompt *rest pos"], prompts: slice, columns: slice) -> Tensor:
        """Numbers by column summed over the columns of each of the graph's positions."""
        return sum_by_place(each, self.places[prompts, columns], self.graph.n_positions)

    def add(self, reader: int, writer: int, found: PairScores, prompts: slice) -> None:
        """Add scores of pairs, the first of which are of these numbers; all see the same writers."""
        n_readers, n_writers = found.shape[1:3]
        reach, n = int(self.graph.reach[reader]), self.graph.n_positions
        first = int(self.graph.offsets[reader]) * n
        block = self.scores[prompts, first : first + n_readers * reach * n]
        block.view(-1, n_readers, reach, n)[:, :, writer : writer + n_writers] += found


def _batches(waiting: Sequence[Reading], at_once: int, shared: bool) -> list[Batch]:
    """Readers to be scored together, no more than ``at_once``: of one reading each, if not ``shared``."""
    found: list[list[tuple[Reading, slice]]] = []
    room = 0
    for reading in waiting:
        for readers in _parts(0, reading.n, at_once):
            n = readers.stop - readers.start
            if not shared or n > room:
                found.append([])
                room = at_once
            found[-1].append((reading, readers))
            room -= n
    return list(found)


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]
