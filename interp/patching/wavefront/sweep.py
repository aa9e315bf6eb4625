"""Many patched rows of many prompts within a budget of memory: blocks of prompts, chunks of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.patching.budget import empty_device_cache
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.memory import Sizes, chunk_rows
from interp.patching.wavefront.pairs import PairRun, PairRuns
from interp.patching.wavefront.scoring import Scorer


@dataclass(frozen=True)
class Answer:
    """The metric of every prompt: of each patched group, and of the two unpatched runs."""

    scores: Float[Tensor, "group prompt"]
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    n_rows: int
    """(group, prompt) pairs that had to be run."""
    notes: tuple[str, ...] = ()


class BlockSweep(ABC):
    """One call: the same groups, each patched in every prompt, on one block of prompts after another."""

    def __init__(self, pairs: PairRuns, n_groups: int, budget: int, recorded: int = 0) -> None:
        self.pairs = pairs
        self.stack = pairs.stack
        self.n_groups = n_groups
        self.budget = budget
        self.notes: tuple[str, ...] = ()
        task = pairs.task
        reads = pairs.metric.reads(task)
        n_logits = self.stack.traits.d_vocab if reads.vocab is None else reads.vocab.shape[1]
        self.sizes = Sizes(self.stack, task.clean.shape[1], reads.positions.shape[1], n_logits, recorded)

    @abstractmethod
    def flights(self, run: PairRun, rows: Int[Tensor, " prompt"]) -> Flights:
        """The rows of one block of prompts, planned; their groups are numbered from 0."""

    def run_all(self, desc: str, unit: str, progress: bool) -> Answer:
        """Every group in every prompt."""
        with tqdm(total=self.n_groups, desc=desc, unit=unit, disable=not progress) as bar:
            parts = list(self._run_blocks(bar))
        scores, clean, corrupted = (torch.cat(part, dim=-1) for part in list(zip(*parts, strict=True))[:3])
        return Answer(scores, clean, corrupted, sum(part[3] for part in parts), self.notes)

    def _run_blocks(self, bar: tqdm) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """:meth:`_run` of all prompts, block by block; a block that runs out of memory is halved."""
        blocks = self._prompt_blocks()[::-1]
        while blocks:
            rows, done = blocks.pop(), bar.n
            try:
                yield self._run(rows, bar)
            except (torch.OutOfMemoryError, MemoryError):
                if len(rows) < 2 or self.pairs.metric.whole_batch:
                    raise
                blocks += rows.tensor_split(2)[::-1]
                bar.update(done - bar.n)
                empty_device_cache()

    def _prompt_blocks(self) -> list[Int[Tensor, " prompt"]]:
        """Prompts whose runs can be kept within half the budget; all at once for metrics on whole batches."""
        n, sizes = len(self.pairs.task), self.sizes
        cost = sizes.prompt(self.pairs.base_places, self.pairs.source_places)
        together = n if self.pairs.metric.whole_batch else 1
        least = together * (cost + int(sizes.row(0))) + sizes.hidden
        if least > self.budget:
            what = "one prompt and one row" if together == 1 else "all prompts and a row of each"
            self.notes = (f"memory_budget={self.budget} is less than the {least} bytes that {what} may take",)
        return list(torch.arange(n).split(max(together, int(self.budget // 2 // cost))))

    def _run(self, rows: Int[Tensor, " prompt"], bar: tqdm) -> tuple[Tensor, Tensor, Tensor, int]:
        """Scores [group, prompt] and both baselines of some prompts, and how many rows it took."""
        run = self.pairs.run(rows)
        flights = self.flights(run, rows)
        scores = run.base_score.expand(self.n_groups, -1).cpu().clone()
        scorer = Scorer(self.stack, run.readout, run.picked, run.vocab, run.read)
        self._run_rows(flights, scorer, scores, bar, len(rows) / len(self.pairs.task))
        return scores, run.clean.cpu(), run.corrupted.cpu(), len(flights.plan)

    def _run_rows(self, flights: Flights, scorer: Scorer, scores: Tensor, bar: tqdm, share: float) -> None:
        plan, whole = flights.plan, self.pairs.metric.whole_batch
        kept = self.sizes.prompt(self.pairs.base_places, self.pairs.source_places) * scores.shape[1]
        chunks = list(chunk_rows(plan, self.sizes, self.sizes.room(self.budget, kept), whole))[::-1]
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
