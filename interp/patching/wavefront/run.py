"""The ``wavefront`` backend: every row of a sweep exactly, at a fraction of the forwards.

Five facts make it cheap. A patch at a layer leaves earlier layers as they were, so a row begins at
its layer. Attention is causal, so it begins at its first changed column. Where source and base are
equal nothing changes, so those rows are not run. Rows that begin in different layers travel
together, one pass through the layers for all. And a metric reads a few columns and often a few
tokens, so no more is computed of the last layer and unembedded.

The result is that of patching through hooks, up to rounding; what these block functions do not
cover is refused with a reason and left to hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PatchError
from interp.models.blocks import Stack
from interp.patching.budget import check_budget
from interp.patching.cells import Cell
from interp.patching.wavefront.births import base_needs
from interp.patching.wavefront.cells import ATTENTION, MLP_HIDDEN, CellTable
from interp.patching.wavefront.flights import CellFlights, Flights
from interp.patching.wavefront.pairs import PairRun, PairRuns
from interp.patching.wavefront.paths import (
    PathFlights,
    Paths,
    path_needs,
    reachable_rows,
    recorded_numbers,
)
from interp.patching.wavefront.plan import plan_rows
from interp.patching.wavefront.sweep import Answer, BlockSweep
from interp.patching.wavefront.values import Place
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import PATTERN_COMPONENTS, Ablation


@dataclass(frozen=True)
class Request:
    """What is to be patched, and with what."""

    task: PromptPairs
    groups: Sequence[Sequence[Cell]]
    direction: str
    ablation: Ablation
    metric: Metric
    reference: PromptPairs | Tensor | None = None
    seed: int = 0
    paths: Paths | None = None
    """Groups are then single senders, patched along their paths to receivers only."""


@torch.no_grad()
def run_wavefront(stack: Stack, request: Request, memory_budget: int, progress: bool = True) -> Answer:
    """The metric of every prompt with each group of cells patched together, and unpatched.

    ``memory_budget`` bounds the bytes of all activations held at once. Raises :class:`PatchError`
    for ablations that do not fit; an interrupt leaves nothing behind.
    """
    check_budget(memory_budget)
    places = dict.fromkeys((cell.component, cell.layer) for group in request.groups for cell in group)
    if not places:
        raise PatchError("there is nothing to patch: every group of sites is empty.")
    return _CellSweep(stack, request, list(places), memory_budget).run_all("patch", "site", progress)


class _CellSweep(BlockSweep):
    """The same groups of cells on one block of prompts after another."""

    def __init__(self, stack: Stack, request: Request, places: list[Place], budget: int) -> None:
        needs = {need for place in places for need in base_needs(*place, stack)}
        if request.paths is not None:
            needs |= path_needs(request.paths, stack)
        pairs = PairRuns(
            stack,
            request.task,
            request.metric,
            places,
            needs,
            direction=request.direction,
            ablation=request.ablation,
            reference=request.reference,
            seed=request.seed,
        )
        recorded = 0 if request.paths is None else recorded_numbers(request.paths, stack.traits)
        cells = [cell for group in request.groups for cell in group]
        born = max(_numbers_born(cell, stack, request.task.clean.shape[1]) for cell in cells)
        written = [*(request.paths.receivers if request.paths is not None else ())]
        written += [cell for group in request.groups if len(group) > 1 for cell in group]
        watched = 4 * stack.traits.d_mlp if any(cell.component in MLP_HIDDEN for cell in written) else 0
        super().__init__(pairs, len(request.groups), budget, born=born, recorded=recorded, watched=watched)
        self.request = request
        self.sees_later = any(name == "attn_scores" for name, _ in places) and request.ablation != "source"

    def flights(self, run: PairRun, rows: Int[Tensor, " prompt"]) -> Flights:
        """See :meth:`BlockSweep.flights`."""
        cells = CellTable(self.request.groups, self.stack.model.device, rows)
        plan = plan_rows(
            self.stack,
            self.request.groups,
            cells,
            run.base,
            run.new,
            run.differs_from if self.request.ablation == "source" else None,
            run.read.max(dim=1).values,
            self.request.metric.whole_batch,
        )
        stop = run.task.clean.shape[1] if self.sees_later else None
        paths = self.request.paths
        if paths is None:
            return CellFlights(self.stack, run.base, run.new, cells, plan, run.read, stop)
        plan = reachable_rows(plan, paths, self.stack.traits)
        return PathFlights(paths, self.stack, run.base, run.new, cells, plan, run.read, stop)


def _numbers_born(cell: Cell, stack: Stack, n_columns: int) -> int:
    """Numbers that a token takes while its row begins with this cell, beside a few residual streams."""
    t = stack.traits
    if cell.component in ATTENTION:
        served = 1 if cell.component in ("q", *PATTERN_COMPONENTS) else t.group_size
        # scores and pattern at all source columns; keys and values are made there too
        return (
            4 * served * n_columns + 12 * t.d_head + (2 * t.n_heads * t.d_head + 2 * t.d_model) * t.post_norms
        )
    if cell.component in ("z", "result"):
        return 6 * t.d_head + t.d_model + (2 * t.n_heads * t.d_head + 2 * t.d_model) * t.post_norms
    if cell.component in MLP_HIDDEN:
        some = len(cell.neurons) if cell.neurons is not None and not t.post_norms else t.d_mlp
        return 8 * some + t.d_model
    return 2 * t.d_model if cell.component != "mlp_in" else 3 * t.d_model
