"""Every edge of a graph exactly: each alone carries the replacing run's value, all else runs on.

An edge changes what one reader sees: the base run's residual stream plus the change of the writer's output.
The reader is computed again on that, and from what it adds to the stream on the row flies with all the others:
about half the layers and the columns from the first difference on, instead of a forward for every edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack
from interp.models.blocks.geometry import take_columns
from interp.patching.budget import check_budget
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.heads import Columns, HeadChanges, base_stream
from interp.patching.wavefront.injections import Newborn
from interp.patching.wavefront.neurons import change_of_neuron, change_of_units
from interp.patching.wavefront.pairs import PairRun, PairRuns
from interp.patching.wavefront.plan import FULL, RowPlan
from interp.patching.wavefront.sweep import Answer, BlockSweep
from interp.patching.wavefront.values import Place
from interp.results import Graph
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation


@dataclass(frozen=True)
class EdgeRequest:
    """Which edges are to be patched, and with what."""

    task: PromptPairs
    graph: Graph
    edges: np.ndarray
    """Their numbers."""
    direction: str
    ablation: Ablation
    metric: Metric
    reference: PromptPairs | Tensor | None = None
    seed: int = 0
    places: Int[Tensor, "prompt pos"] | None = None
    """The graph's position of every column, where it has positions; -1 on padding."""


@torch.no_grad()
def run_edges(stack: Stack, request: EdgeRequest, memory_budget: int, progress: bool = True) -> Answer:
    """The metric of every prompt with each edge patched alone, and unpatched.

    ``memory_budget`` bounds the bytes of all activations held at once. Raises :class:`PatchError` for
    ablations that do not fit; an interrupt leaves nothing behind.
    """
    check_budget(memory_budget)
    return _EdgeSweep(stack, request, memory_budget).run_all("edges", "edge", progress)


def written_places(graph: Graph) -> set[Place]:
    """What the writers of a graph are replaced by, as (component, layer)."""
    found: set[Place] = set()
    for writer in graph.writers:
        if writer.kind == "input":
            found.add(("resid_pre", 0))
        elif writer.kind == "head":
            found.add(("z", writer.layer))
        elif writer.kind == "neuron" or graph.units_of(writer.layer) is not None:
            found.add(("mlp_post", writer.layer))
        else:
            found.add(("mlp_out", writer.layer))
    return found


def _kept_places(stack: Stack, graph: Graph) -> set[Place]:
    """What has to be kept of the base run to compute readers again."""
    traits, found = stack.traits, written_places(graph)
    for layer in range(traits.n_layers):
        found |= {(name, layer) for name in ("z", "queries", "pattern", "k", "v")}
        if traits.post_norms:
            found.add(("o", layer))
        if not traits.d_mlp:
            continue
        found.add(("mlp_out", layer))
        if not traits.parallel_blocks:
            found.add(("resid_mid", layer))
        if graph.units_of(layer) is not None:
            found.add(("mlp_post", layer))
            if traits.post_norms:
                found.add(("mlp_o", layer))
    return found


class _EdgeSweep(BlockSweep):
    """The same edges on one block of prompts after another."""

    def __init__(self, stack: Stack, request: EdgeRequest, budget: int) -> None:
        pairs = PairRuns(
            stack,
            request.task,
            request.metric,
            sorted(written_places(request.graph)),
            _kept_places(stack, request.graph),
            direction=request.direction,
            ablation=request.ablation,
            reference=request.reference,
            seed=request.seed,
        )
        # beside the stream a row begins with its reader's own input, normalised
        super().__init__(pairs, len(request.edges), budget, 3 * stack.traits.d_model)
        self.request = request

    def flights(self, run: PairRun, rows: Int[Tensor, " prompt"]) -> Flights:
        """See :meth:`BlockSweep.flights`."""
        places = self.request.places
        writes = _Writes(self.stack, run, self.request.graph, None if places is None else places[rows])
        whole = self.request.metric.whole_batch
        plan = _plan_edges(self.request, writes, run, self.stack, whole)
        return EdgeFlights(self.stack, run, writes, plan, self.request.edges)


def _plan_edges(
    request: EdgeRequest, writes: _Writes, run: PairRun, stack: Stack, whole_groups: bool
) -> RowPlan:
    """Rows of every edge in every prompt in which its writer changes at a column that matters."""
    graph, traits = request.graph, stack.traits
    entries = []
    for reader in graph.readers:
        if reader.kind == "logits":
            entries.append(2 * traits.n_layers)
        elif reader.kind in ("q", "k", "v") and traits.d_mlp and not traits.parallel_blocks:
            entries.append(2 * reader.layer + 1)
        else:
            entries.append(2 * reader.layer + 2)
    from_difference = run.differs_from if request.ablation == "source" else None
    first = writes.first_changes(from_difference)
    edges = request.edges
    begin = first[graph.edge_writer[edges], graph.edge_position[edges]]
    needed = begin <= run.read.max(dim=1).values.cpu().numpy()[None]
    group, prompt = np.nonzero(needed)
    if whole_groups:
        lowest = np.where(needed, begin, np.iinfo(begin.dtype).max).min(1, keepdims=True)
        begin = np.broadcast_to(lowest, begin.shape)
    start = begin[group, prompt]
    entry = np.array(entries)[graph.edge_reader[edges[group]]]
    writer, position = graph.edge_writer[edges[group]], graph.edge_position[edges[group]]
    # rows of one writer side by side: what it changes is computed once for all that read it
    order = np.lexsort((prompt, position, writer, entry, start))
    return RowPlan(group[order], prompt[order], start[order], entry[order], np.full(len(group), FULL), {})


class _Writes:
    """What each writer of a graph changes of the residual stream when it carries the replacing value."""

    def __init__(self, stack: Stack, run: PairRun, graph: Graph, places: Tensor | None) -> None:
        self.stack = stack
        self.base = run.base
        self.new = run.new
        self.graph = graph
        self.places = None if places is None else places.to(run.read.device)

    def first_changes(self, differs_from: Int[Tensor, " prompt"] | None) -> np.ndarray:
        """[writer, position, prompt] First column at which each changes; a number beyond all if none."""
        tokens = self.base.tokens
        column = torch.arange(tokens.shape[1], device=tokens.device)
        beyond = torch.full((), torch.iinfo(torch.int32).max, device=tokens.device)
        found = []
        for number in range(len(self.graph.writers)):
            differs = self._differs(number)
            if differs_from is not None:
                differs = differs & (column[None] >= differs_from.to(column.device)[:, None])
            by_place = [
                differs if self.places is None else differs & (self.places == place)
                for place in range(self.graph.n_positions)
            ]
            found.append(
                torch.stack([torch.where(part.any(1), part.int().argmax(1), beyond) for part in by_place])
            )
        return torch.stack(found).cpu().numpy()

    def _differs(self, number: int) -> Tensor:
        writer = self.graph.writers[number]
        component, layer, index = self._source(number)
        unequal = self.new(component, layer) != self.base[component, layer]
        if writer.kind == "head":
            return unequal[:, :, writer.index].any(-1)
        if index is not None:
            return unequal[..., index].any(-1)
        return unequal.any(-1)

    def _source(self, number: int) -> tuple[str, int, Tensor | None]:
        """Component and layer of a writer, and which neurons of it, where it is some of them."""
        writer = self.graph.writers[number]
        if writer.kind == "input":
            return "resid_pre", 0, None
        if writer.kind == "head":
            return "z", writer.layer, None
        units = self.graph.units_of(writer.layer)
        if units is None:
            return "mlp_out", writer.layer, None
        own = torch.tensor(units.indices if writer.kind == "mlp" else [writer.index])
        if writer.kind == "mlp":
            own = torch.tensor(sorted(set(range(self.stack.traits.d_mlp)) - set(own.tolist())))
        return "mlp_post", writer.layer, own.to(self.base.tokens.device)

    def change(
        self, number: int, position: int, prompts: Int[Tensor, " row"], columns: Columns, heads: HeadChanges
    ) -> Float[Tensor, "row pos d_model"]:
        """What a writer changes at these columns, in some prompts."""
        component, layer, index = self._source(number)
        if isinstance(columns, slice):
            columns = torch.arange(columns.start, columns.stop, device=prompts.device).expand(
                len(prompts), -1
            )
        prompt, column = prompts.repeat_interleave(columns.shape[1]), columns.flatten()
        place = (prompt, column)
        delta = self.new(component, layer)[place] - self.base[component, layer][place]
        writer = self.graph.writers[number]
        if writer.kind == "head":
            own = torch.full_like(prompt, writer.index)[:, None]
            delta = heads.attention_change(layer, place, delta[:, writer.index], own)
        elif index is not None:
            delta = change_of_units(self.stack, self.base, layer, place, delta, index)
        if self.places is not None:
            delta = delta * (self.places[place] == position)[:, None]
        return delta.view(len(prompts), -1, delta.shape[-1])


class EdgeFlights(Flights):
    """Rows that begin with what one reader makes of one changed writer."""

    def __init__(self, stack: Stack, run: PairRun, writes: _Writes, plan: RowPlan, edges: np.ndarray) -> None:
        super().__init__(stack, run.base, plan, run.read)
        self.graph = writes.graph
        self.writes = writes
        self.edges = edges
        self.heads = HeadChanges(stack, run.base)

    def first_stream(
        self, rows: np.ndarray, prompts: Tensor, columns: Columns, entry: int, stop: int
    ) -> Newborn:
        """See :meth:`Flights.first_stream`."""
        every = slice(int(self.plan.start[rows[0]]), stop)
        resid = base_stream(self.base, entry, prompts, columns).clone()
        readers = self.graph.edge_reader[self.edges[self.plan.group[rows]]]
        kinds = np.array([reader.kind for reader in self.graph.readers])[readers]
        for kind in dict.fromkeys(kinds.tolist()):
            at = np.flatnonzero(kinds == kind)
            index = self._to_device(at)
            mine = columns if isinstance(columns, slice) else columns[index]
            read_at = every if kind in ("k", "v") else mine
            inputs, which = self._inputs(rows[at], prompts[index], read_at)
            if kind == "logits":
                change = inputs[which]
            elif kind in ("q", "k", "v"):
                change = self._read_head(kind, inputs, which, readers[at], prompts[index], mine, every)
            else:
                change = self._read_mlp(kind, inputs, which, readers[at], prompts[index], mine)
            resid[index] = resid[index] + change
        return Newborn(resid)

    def _inputs(
        self, rows: np.ndarray, prompts: Int[Tensor, " row"], columns: Columns
    ) -> tuple[Float[Tensor, "source pos d_model"], Int[Tensor, " row"]]:
        """What the rows' writers change, each (writer, position, prompt) once, and whose each row is."""
        edges = self.edges[self.plan.group[rows]]
        writer, position = self.graph.edge_writer[edges], self.graph.edge_position[edges]
        keys = np.stack([writer, position, self.plan.prompt[rows]], axis=1)
        sources, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        parts = []
        ends = np.flatnonzero(np.any(np.diff(sources[:, :2], axis=0) != 0, axis=1)) + 1
        for part in np.split(np.arange(len(sources)), ends):
            at = self._to_device(first[part])
            mine = columns if isinstance(columns, slice) else columns[at]
            number, place = sources[part[0], :2]
            parts.append(self.writes.change(int(number), int(place), prompts[at], mine, self.heads))
        return torch.cat(parts), self._to_device(which.reshape(-1))

    def _normalised(
        self,
        inputs: Tensor,
        which: Tensor,
        prompts: Tensor,
        columns: Columns,
        layer: int,
        is_mlp: bool,
    ) -> Float[Tensor, "source pos d_model"]:
        """What readers of a layer see of each source, after their norm."""
        block = self.stack.blocks[layer]
        of_source = torch.empty(len(inputs), dtype=torch.long, device=prompts.device)
        row = torch.arange(len(which), device=prompts.device)
        of_source[which] = row
        mine = columns if isinstance(columns, slice) else columns[of_source]
        entry = 2 * layer + (is_mlp and not self.stack.traits.parallel_blocks)
        stream = base_stream(self.base, entry, prompts[of_source], mine)
        return block.normalise(stream + inputs, block.weights.ln2 if is_mlp else block.weights.ln1)

    def _read_head(
        self,
        kind: str,
        inputs: Tensor,
        which: Tensor,
        readers: np.ndarray,
        prompts: Tensor,
        columns: Columns,
        every: slice,
    ) -> Float[Tensor, "row pos d_model"]:
        """What the rows' heads add to the stream when their query, key or value is computed from a changed input."""
        layer = self.graph.readers[readers[0]].layer
        block = self.stack.blocks[layer]
        at = columns if kind == "q" else every
        x = self._normalised(inputs, which, prompts, at, layer, is_mlp=False)
        name = {"q": "queries", "k": "keys", "v": "values"}[kind]
        own = np.array([reader.index for reader in self.graph.readers])[readers]
        head = self._to_device(own)
        projected = block.project(x.flatten(0, 1), name)[0]
        heads = projected.unflatten(0, x.shape[:2]).unflatten(-1, (-1, self.stack.traits.d_head))
        value = heads[which, :, head][:, :, None]
        if kind != "q" and every.start:
            table = self.base[kind, layer][:, : every.start]
            before = table[prompts[:, None], torch.arange(every.start, device=head.device), head[:, None]]
            value = torch.cat([before[:, :, None], value], dim=1)
        return self.heads.by_input(kind, layer, prompts, columns, every.stop, head[:, None], value)

    def _read_mlp(
        self,
        kind: str,
        inputs: Tensor,
        which: Tensor,
        readers: np.ndarray,
        prompts: Tensor,
        columns: Columns,
    ) -> Float[Tensor, "row pos d_model"]:
        """What the rows' MLPs, or single neurons, add to the stream when their input is changed."""
        layer = self.graph.readers[readers[0]].layer
        x = self._normalised(inputs, which, prompts, columns, layer, is_mlp=True)
        units = self.graph.units_of(layer)
        block = self.stack.blocks[layer]
        if units is None:
            out = block.finish_mlp(block.mlp(x.flatten(0, 1)))[self._tokens(which, x.shape[1])]
            out = out.unflatten(0, (len(which), -1))
            return out - take_columns(self.base["mlp_out", layer], prompts, columns)
        neuron = None
        if kind == "neuron":
            own = np.array([reader.index for reader in self.graph.readers])[readers]
            neuron = self._to_device(own)
        base_at = (prompts, columns)
        return change_of_neuron(self.stack, self.base, layer, base_at, x, which, neuron, units.indices)

    def _tokens(self, which: Tensor, n: int) -> Tensor:
        return (which[:, None] * n + torch.arange(n, device=which.device)).flatten()
