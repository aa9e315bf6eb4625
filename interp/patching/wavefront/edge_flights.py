"""Rows that begin with what one reader makes of one changed writer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack, mlp_in_parts
from interp.models.blocks.geometry import take_columns
from interp.patching.wavefront.edge_writes import EdgeWrites, Sources
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.heads import Columns, base_stream
from interp.patching.wavefront.injections import Newborn
from interp.patching.wavefront.neurons import change_of_neuron
from interp.patching.wavefront.pairs import PairRun
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.transfers import send_together


@dataclass(frozen=True)
class _Reads:
    """Rows whose readers are of one kind (and layer, for they enter at one place)."""

    kind: str
    layer: int
    at: Int[Tensor, " row"]
    """Which of the rows that begin together."""
    which: Int[Tensor, " row"]
    """The source that each reads."""
    own: Int[Tensor, " row"]
    """Its head or neuron."""
    sources: Sources


class EdgeFlights(Flights):
    """Flights of one edge each."""

    def __init__(
        self, stack: Stack, run: PairRun, writes: EdgeWrites, plan: RowPlan, edges: np.ndarray
    ) -> None:
        super().__init__(stack, run.base, plan, run.read)
        self.graph = writes.graph
        self.writes = writes
        self.edges = edges
        self.heads = writes.heads
        readers = self.graph.readers
        self._kind = np.array([reader.kind for reader in readers])
        self._own = np.array([reader.index for reader in readers])
        self._units = {
            units.layer: torch.tensor(units.indices, device=run.read.device) for units in self.graph.units
        }

    def first_stream(
        self, rows: np.ndarray, prompts: Tensor, columns: Columns, entry: int, stop: int
    ) -> Newborn:
        """See :meth:`Flights.first_stream`."""
        every = slice(int(self.plan.start[rows[0]]), stop)
        resid = base_stream(self.base, entry, prompts, columns)
        reads = list(self._plan_reads(rows, prompts, columns, every))
        if len(reads) == 1:
            return Newborn(resid + self._read(reads[0], prompts, columns, every))
        resid = resid.clone()
        for read in reads:
            mine = columns if isinstance(columns, slice) else columns[read.at]
            change = self._read(read, prompts[read.at], mine, every)
            resid[read.at] = resid[read.at] + change
        return Newborn(resid)

    def _plan_reads(
        self, rows: np.ndarray, prompts: Tensor, columns: Columns, every: slice
    ) -> Iterator[_Reads]:
        """Rows by kind of reader, and what they read: each (writer, position, prompt) is made once."""
        graph, edges = self.graph, self.edges[self.plan.group[rows]]
        reader, writer, position = (
            graph.edge_reader[edges],
            graph.edge_writer[edges],
            graph.edge_position[edges],
        )
        n_prompts = len(self.base.tokens)
        key = (writer.astype(np.int64) * graph.n_positions + position) * n_prompts + self.plan.prompt[rows]
        for kind in dict.fromkeys(self._kind[reader].tolist()):
            at = np.flatnonzero(self._kind[reader] == kind)
            _, first, which = np.unique(key[at], return_index=True, return_inverse=True)
            first = at[first]
            numbers = np.stack([self.writes.number[writer[first]], position[first]]).astype(np.int64)
            sent = send_together(
                [at, which.reshape(-1), self._own[reader[at]], first, numbers], self.read.device
            )
            at_rows, which_of, own, made_at, of_sources = sent
            columns_read = every if kind in ("k", "v") else columns
            if isinstance(columns_read, Tensor):
                columns_read = columns_read[made_at]
            sources = Sources(writer[first], position[first], of_sources, prompts[made_at], columns_read)
            yield _Reads(kind, graph.readers[reader[at[0]]].layer, at_rows, which_of, own, sources)

    def _read(
        self, read: _Reads, prompts: Tensor, columns: Columns, every: slice
    ) -> Float[Tensor, "row pos d_model"]:
        """What the rows' readers add to the stream."""
        change = self.writes.make(read.sources)
        if read.kind == "logits":
            return change[read.which]
        if read.kind in ("q", "k", "v"):
            return self._read_head(read, change, prompts, columns, every)
        return self._read_mlp(read, change, prompts, columns)

    def _normalise(self, read: _Reads, change: Tensor, is_mlp: bool) -> Float[Tensor, "source pos d_model"]:
        """What readers see of each source, after their norm."""
        block = self.stack.blocks[read.layer]
        entry = 2 * read.layer + (is_mlp and not self.stack.traits.parallel_blocks)
        stream = base_stream(self.base, entry, read.sources.prompts, read.sources.columns)
        return block.normalise(stream + change, block.weights.ln2 if is_mlp else block.weights.ln1)

    def _read_head(
        self, read: _Reads, change: Tensor, prompts: Tensor, columns: Columns, every: slice
    ) -> Float[Tensor, "row pos d_model"]:
        """What heads add when their query, key or value is computed from a changed input."""
        block, kind = self.stack.blocks[read.layer], read.kind
        x = self._normalise(read, change, is_mlp=False)
        projected = block.project(x.flatten(0, 1), {"q": "queries", "k": "keys", "v": "values"}[kind])[0]
        heads = projected.unflatten(0, x.shape[:2]).unflatten(-1, (-1, self.stack.traits.d_head))
        value, own = heads[read.which, :, read.own][:, :, None], read.own[:, None]
        if kind != "q" and every.start:
            before = torch.arange(every.start, device=own.device)
            old = self.base[kind, read.layer][prompts[:, None], before, own]
            value = torch.cat([old[:, :, None], value], dim=1)
        return self.heads.by_input(kind, read.layer, prompts, columns, every.stop, own, value)

    def _read_mlp(
        self, read: _Reads, change: Tensor, prompts: Tensor, columns: Columns
    ) -> Float[Tensor, "row pos d_model"]:
        """What MLPs, or single neurons, add when their input is changed."""
        layer, block = read.layer, self.stack.blocks[read.layer]
        x = self._normalise(read, change, is_mlp=True)
        units = self._units.get(layer)
        if units is None:
            flat = x.flatten(0, 1)
            hidden = mlp_in_parts(block, flat) if x.is_cuda else block.mlp(flat)
            out = block.finish_mlp(hidden).unflatten(0, x.shape[:2])[read.which]
            return out - take_columns(self.base["mlp_out", layer], prompts, columns)
        neuron = read.own if read.kind == "neuron" else None
        base_at = (prompts, columns)
        return change_of_neuron(self.stack, self.base, layer, base_at, x, read.which, neuron, units)
