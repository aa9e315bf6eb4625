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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import PatchError
from interp.models.blocks import Stack, Trace, run_trace, run_traces
from interp.models.interventions import other_rows
from interp.patching.budget import check_budget, empty_device_cache
from interp.patching.cells import Cell, columns_of
from interp.patching.readout import Readout
from interp.patching.replacement import check_kind, refuse_meanless
from interp.patching.wavefront.births import base_needs
from interp.patching.wavefront.cells import CellTable
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.memory import Sizes, chunk_rows
from interp.patching.wavefront.paths import (
    PathFlights,
    Paths,
    path_needs,
    reachable_rows,
    recorded_numbers,
)
from interp.patching.wavefront.plan import plan_rows
from interp.patching.wavefront.scoring import Scorer
from interp.patching.wavefront.values import (
    Place,
    mean_activations,
    read_places,
    replacing_values,
)
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation


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


@dataclass(frozen=True)
class Answer:
    """The metric of every prompt: of each patched group, and of the two unpatched runs."""

    scores: Float[Tensor, "group prompt"]
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    n_rows: int
    """(group, prompt) pairs that had to be run."""
    notes: tuple[str, ...] = ()


@torch.no_grad()
def run_wavefront(stack: Stack, request: Request, memory_budget: int, progress: bool = True) -> Answer:
    """The metric of every prompt with each group of cells patched together, and unpatched.

    ``memory_budget`` bounds the bytes of all activations held at once. Raises :class:`PatchError`
    for ablations that do not fit; an interrupt leaves nothing behind.
    """
    check_budget(memory_budget)
    check_kind(request.task, request.ablation)
    places = dict.fromkeys((cell.component, cell.layer) for group in request.groups for cell in group)
    for component, _ in places:
        refuse_meanless(component, request.ablation)
    means = _means(stack, request, places)
    if not places:
        raise PatchError("there is nothing to patch: every group of sites is empty.")
    sweep = _Sweep(stack, request, list(places), means, memory_budget)
    with tqdm(total=len(request.groups), desc="patch", unit="site", disable=not progress) as bar:
        parts = list(sweep.run_blocks(bar))
    scores, clean, corrupted = (torch.cat(part, dim=-1) for part in list(zip(*parts, strict=True))[:3])
    return Answer(scores, clean, corrupted, sum(part[3] for part in parts), sweep.notes)


def _means(stack: Stack, request: Request, places: dict[Place, None]) -> dict[Place, Tensor]:
    if request.ablation not in ("mean", "mean-per-position"):
        return {}
    task, reference = request.task, request.reference
    if isinstance(reference, PromptPairs):
        tokens, mask = reference.clean, reference.attention_mask
    elif isinstance(reference, Tensor):
        tokens, mask = reference, None
    else:
        tokens = task.clean if request.direction == "denoise" else task.corrupted
        mask = task.attention_mask
    device = stack.model.device
    mask = None if mask is None else mask.to(device)
    return mean_activations(stack, tokens.to(device), mask, places, request.ablation == "mean-per-position")


class _Sweep:
    """One call: the same groups on one block of prompts after another."""

    def __init__(
        self, stack: Stack, request: Request, places: list[Place], means: dict[Place, Tensor], budget: int
    ) -> None:
        self.stack = stack
        self.request = request
        self.means = means
        self.budget = budget
        self.source_places = read_places(places)
        self.base_places = {need for place in places for need in base_needs(*place, stack)}
        if request.paths is not None:
            self.base_places |= path_needs(request.paths, stack)
        self.order = other_rows(len(request.task), request.seed) if request.ablation == "resample" else None
        self.sees_later = any(name == "attn_scores" for name, _ in places) and request.ablation != "source"
        self.notes: tuple[str, ...] = ()

    def run_blocks(self, bar: tqdm) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """:meth:`run` of all prompts, block by block; a block that runs out of memory is halved."""
        blocks = self._prompt_blocks()[::-1]
        while blocks:
            rows, done = blocks.pop(), bar.n
            try:
                yield self.run(rows, bar)
            except (torch.OutOfMemoryError, MemoryError):
                if len(rows) < 2 or self.request.metric.whole_batch:
                    raise
                blocks += rows.tensor_split(2)[::-1]
                bar.update(done - bar.n)
                empty_device_cache()

    def _prompt_blocks(self) -> list[Int[Tensor, " prompt"]]:
        """Prompts whose runs can be kept within half the budget; all at once for metrics on whole batches."""
        task = self.request.task
        sizes = self._sizes(task)
        cost = sizes.prompt(self.base_places, self.source_places)
        together = len(task) if self.request.metric.whole_batch else 1
        least = together * (cost + int(sizes.row(0))) + sizes.hidden
        if least > self.budget:
            what = "one prompt and one row" if together == 1 else "all prompts and a row of each"
            self.notes = (f"memory_budget={self.budget} is less than the {least} bytes that {what} may take",)
        return list(torch.arange(len(task)).split(max(together, int(self.budget // 2 // cost))))

    def _sizes(self, task: PromptPairs) -> Sizes:
        reads = self.request.metric.reads(task)
        n_logits = self.stack.traits.d_vocab if reads.vocab is None else reads.vocab.shape[1]
        n_columns, n_read = task.clean.shape[1], reads.positions.shape[1]
        paths = self.request.paths
        recorded = 0 if paths is None else recorded_numbers(paths, self.stack.traits)
        return Sizes(self.stack, n_columns, n_read, n_logits, recorded)

    def run(self, rows: Int[Tensor, " prompt"], bar: tqdm) -> tuple[Tensor, Tensor, Tensor, int]:
        """Scores [group, prompt] and both baselines of some prompts, and how many rows it took."""
        whole = self.request.task
        task = whole if len(rows) == len(whole) else whole.select(rows.tolist())
        base, other, source = self._traces(task, rows)
        device = self.stack.model.device
        readout = Readout(task, self.request.metric)
        read = readout.reads.positions.to(device)
        vocab = None if readout.reads.vocab is None else readout.reads.vocab.to(device)
        picked = [self._pick(trace.stream[-1], read, vocab) for trace in (base, other)]
        differ = _first_difference(task)
        # equal prompts give equal numbers, whatever shapes they were computed in
        picked[1] = torch.where((differ < task.clean.shape[1])[:, None, None], picked[1], picked[0])
        clean, corrupted = picked[::-1] if self.request.direction == "denoise" else picked
        readout.set_reference(clean)
        prompts = torch.arange(len(task), device=device)
        baselines = [readout.score_picked(part, prompts).float() for part in (clean, corrupted)]
        base_score = baselines[1 if self.request.direction == "denoise" else 0]
        cells = CellTable(self.request.groups, device, rows)
        positions = columns_of(task).positions.to(device)
        new = replacing_values(self.request.ablation, base, source, self.means, positions)
        plan = plan_rows(
            self.stack,
            self.request.groups,
            cells,
            base,
            new,
            differ if self.request.ablation == "source" else None,
            read.max(dim=1).values,
            self.request.metric.whole_batch,
        )
        stop = task.clean.shape[1] if self.sees_later else None
        paths = self.request.paths
        if paths is None:
            flights = Flights(self.stack, base, new, cells, plan, read, stop)
        else:
            plan = reachable_rows(plan, paths, self.stack.traits)
            flights = PathFlights(paths, self.stack, base, new, cells, plan, read, stop)
        scores = base_score.expand(len(self.request.groups), -1).cpu().clone()
        scorer = Scorer(self.stack, readout, picked[0], vocab, read)
        share = len(rows) / len(whole)
        self._run_rows(flights, scorer, scores, bar, share)
        return scores, baselines[0].cpu(), baselines[1].cpu(), len(plan)

    def _traces(self, task: PromptPairs, rows: Tensor) -> tuple[Trace, Trace, Trace | None]:
        """The base run, the other prompt's run, and the run whose activations replace, if one does."""
        stack, kind, mask = self.stack, self.request.ablation, task.attention_mask
        denoise = self.request.direction == "denoise"
        base_tokens, other_tokens = (task.corrupted, task.clean) if denoise else (task.clean, task.corrupted)
        start = min(int(_first_difference(task).min()), task.clean.shape[1] - 1)
        wanted = self.source_places if kind == "source" else set()
        base, other = run_traces(stack, base_tokens, other_tokens, start, mask, self.base_places, wanted)
        if kind != "resample":
            return base, other, other
        assert self.order is not None
        whole = self.request.task
        tokens = (whole.clean if denoise else whole.corrupted)[self.order[rows]]
        return base, other, run_trace(stack, tokens, None, self.source_places)

    def _pick(self, resid: Tensor, read: Tensor, vocab: Tensor | None) -> Tensor:
        at = read[:, :, None].expand(-1, -1, resid.shape[-1])
        return self.stack.unembed(resid.gather(1, at), vocab)

    def _run_rows(self, flights: Flights, scorer: Scorer, scores: Tensor, bar: tqdm, share: float) -> None:
        plan, whole = flights.plan, self.request.metric.whole_batch
        sizes = self._sizes(self.request.task)
        kept = sizes.prompt(self.base_places, self.source_places) * scores.shape[1]
        chunks = list(chunk_rows(plan, sizes, sizes.room(self.budget, kept), whole))[::-1]
        left = np.bincount(plan.group, minlength=len(scores))
        bar.update(share * int((left == 0).sum()))
        while chunks:
            rows = chunks.pop()
            try:
                order, resid = flights.run(rows)
                scorer.score(plan, order, resid, scores)
            except (torch.OutOfMemoryError, MemoryError):
                halves = _halve(rows, plan.group if whole else None)
                if halves is None:
                    raise
                chunks += halves[::-1]
                empty_device_cache()
                continue
            before = (left == 0).sum()
            left -= np.bincount(plan.group[rows], minlength=len(scores))
            bar.update(share * int((left == 0).sum() - before))


def _first_difference(task: PromptPairs) -> Int[Tensor, " prompt"]:
    """First column at which the prompts of each pair differ; the number of columns if none."""
    unequal = task.clean != task.corrupted
    return torch.where(unequal.any(1), unequal.int().argmax(1), task.clean.shape[1])


def _halve(rows: np.ndarray, groups: np.ndarray | None) -> list[np.ndarray] | None:
    """Two halves of a chunk, whole groups staying together; ``None`` when it cannot be halved."""
    if groups is None:
        if len(rows) < 2:
            return None
        return [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    found = list(dict.fromkeys(groups[rows].tolist()))
    if len(found) < 2:
        return None
    first = np.isin(groups[rows], found[: len(found) // 2])
    return [rows[first], rows[~first]]
