"""Every edge of a graph exactly: each alone carries the replacing run's value, all else runs on.

An edge changes what one reader sees: the base run's residual stream plus the change of the writer's output.
The reader is computed again on that, and from what it adds to the stream on the row flies with all the others:
about half the layers and the columns from the first difference on, instead of a forward for every edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.models.blocks import Stack
from interp.patching.budget import check_budget
from interp.patching.wavefront.edge_flights import EdgeFlights
from interp.patching.wavefront.edge_writes import EdgeWrites, keeps_table, n_in_table, written_places
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.memory import Sizes
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


@dataclass(frozen=True)
class _TableSizes(Sizes):
    """With a table of what every writer changes, kept beside a block's runs."""

    n_writers: int = 0

    def prompt(self, kept_of_base: Iterable[Place], kept_of_source: Iterable[Place]) -> int:
        """See :meth:`Sizes.prompt`."""
        return super().prompt(kept_of_base, kept_of_source) + self._table

    def held(self, kept_of_base: Iterable[Place], kept_of_source: Iterable[Place]) -> tuple[int, int]:
        """See :meth:`Sizes.held`."""
        kept, made = super().held(kept_of_base, kept_of_source)
        return kept + self._table, made

    @property
    def _table(self) -> int:
        return self.n_writers * self.n_columns * self.traits.d_model * self.itemsize


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
        # beside the stream a row begins with its reader's own input, normalised, and what single neurons make of it
        traits, hidden = stack.traits, 0
        if request.graph.units:
            hidden = (3 if traits.gated_mlp else 2) * traits.d_mlp
        super().__init__(pairs, len(request.edges), budget, 3 * traits.d_model + hidden)
        if keeps_table(stack.model.device):
            given = {field.name: getattr(self.sizes, field.name) for field in fields(Sizes)}
            self.sizes = _TableSizes(**given, n_writers=n_in_table(request.graph))
        self.request = request

    def flights(self, run: PairRun, rows: Int[Tensor, " prompt"]) -> Flights:
        """See :meth:`BlockSweep.flights`."""
        places = self.request.places
        writes = EdgeWrites(self.stack, run, self.request.graph, None if places is None else places[rows])
        whole = self.request.metric.whole_batch
        plan = _plan_edges(self.request, writes, run, self.stack, whole)
        return EdgeFlights(self.stack, run, writes, plan, self.request.edges)


def _plan_edges(
    request: EdgeRequest, writes: EdgeWrites, run: PairRun, stack: Stack, whole_groups: bool
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
    # rows of one writer side by side: what it changes is computed once for all that read it
    n_prompts, key = begin.shape[1], start.astype(np.int64) * (2 * traits.n_layers + 1) + entry
    key = key * len(graph.writers) + graph.edge_writer[edges[group]]
    key = (key * graph.n_positions + graph.edge_position[edges[group]]) * n_prompts + prompt
    order = np.argsort(key, kind="stable")
    return RowPlan(group[order], prompt[order], start[order], entry[order], np.full(len(group), FULL), {})
