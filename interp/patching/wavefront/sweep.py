"""Many patched rows of many prompts within a budget of memory: blocks of prompts, chunks of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.kernels.graphs import open_graphs
from interp.patching.budget import empty_device_cache, settle_budget
from interp.patching.wavefront.flights import Flights
from interp.patching.wavefront.memory import Chunks, Sizes, plan_chunks
from interp.patching.wavefront.pairs import PairRun, PairRuns
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.scoring import Scorer
from interp.patching.wavefront.transfers import ReadBack
from interp.tasks.metrics import statistics_read_by

AHEAD = 2
"""Chunks that a GPU may be behind the host: it computes them while the next is planned and launched."""


@dataclass(frozen=True)
class Answer:
    """The metric of every prompt: of each patched group, and of the two unpatched runs."""

    scores: Float[Tensor, "group prompt"]
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    n_rows: int
    """(group, prompt) pairs that had to be run."""
    notes: tuple[str, ...] = ()
    predicted_peak: int = 0
    """Bytes of activations at once, by the plan that was kept to."""


class BlockSweep(ABC):
    """One call: the same groups, each patched in every prompt, on one block of prompts after another."""

    def __init__(
        self,
        pairs: PairRuns,
        n_groups: int,
        budget: int,
        carried: int = 0,
        born: int = 0,
        recorded: int = 0,
        watched: int = 0,
    ) -> None:
        self.pairs = pairs
        self.stack = pairs.stack
        self.n_groups = n_groups
        self.budget, self.notes = settle_budget(budget, self.stack.model.device)
        self.predicted_peak = 0
        task = pairs.task
        reads = pairs.metric.reads(task)
        n_logits = self.stack.traits.d_vocab if reads.vocab is None else reads.vocab.shape[1]
        self.sizes = Sizes(
            self.stack,
            task.clean.shape[1],
            reads.positions.shape[1],
            n_logits,
            self._logit_copies(),
            born + carried,
            carried,
            recorded,
            watched,
        )

    def _logit_copies(self) -> int:
        """How often a row's logits are held at once by the metric."""
        metric, stack = self.pairs.metric, self.stack
        like = torch.empty(0, 1, stack.traits.d_model, dtype=stack.model.dtype, device=stack.model.device)
        if statistics_read_by(metric, self.pairs.task) is not None and stack.summary_runs(like):
            return 0
        return 7 if metric.needs_reference else 4

    @abstractmethod
    def flights(self, run: PairRun, rows: Int[Tensor, " prompt"]) -> Flights:
        """The rows of one block of prompts, planned; their groups are numbered from 0."""

    def run_all(self, desc: str, unit: str, progress: bool) -> Answer:
        """Every group in every prompt."""
        with tqdm(total=self.n_groups, desc=desc, unit=unit, disable=not progress) as bar:
            parts = list(self._run_blocks(bar))
        scores, clean, corrupted = (torch.cat(part, dim=-1) for part in list(zip(*parts, strict=True))[:3])
        n_rows = sum(part[3] for part in parts)
        return Answer(scores, clean, corrupted, n_rows, self.notes, self.predicted_peak)

    def _run_blocks(self, bar: tqdm) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """:meth:`_run` of all prompts, block by block; a block that runs out of memory is halved."""
        blocks = self._prompt_blocks()[::-1]
        while blocks:
            rows, done = blocks.pop(), bar.n
            try:
                yield self._run(rows, bar)
                continue
            except (torch.OutOfMemoryError, MemoryError):
                if len(rows) < 2 or self.pairs.metric.whole_batch:
                    raise
            # what the error holds is free from here on
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
            self.notes += (
                f"memory_budget={self.budget} is less than the {least} bytes that {what} may take",
            )
        return list(torch.arange(n).split(max(together, int(self.budget // 2 // cost))))

    def _run(self, rows: Int[Tensor, " prompt"], bar: tqdm) -> tuple[Tensor, Tensor, Tensor, int]:
        """Scores [group, prompt] and both baselines of some prompts, and how many rows it took."""
        held, more = self.sizes.held(self.pairs.base_places, self.pairs.source_places)
        kept = held * len(rows)
        self._foresee(kept + more * len(rows) + self.sizes.hidden)
        run = self.pairs.run(rows)
        flights = self.flights(run, rows)
        scores = run.base_score.expand(self.n_groups, -1).cpu().clone()
        scorer = Scorer(self.stack, run.readout, run.picked, run.vocab, run.read)
        chunks = plan_chunks(flights.plan, self.sizes, self.budget, kept, self.pairs.metric.whole_batch)
        self._run_chunks(flights, scorer, scores, chunks, bar, len(rows) / len(self.pairs.task))
        return scores, run.clean.cpu(), run.corrupted.cpu(), len(flights.plan)

    def _run_chunks(
        self, flights: Flights, scorer: Scorer, scores: Tensor, chunks: Chunks, bar: tqdm, share: float
    ) -> None:
        """Fill in the scores of all rows; a chunk that runs out of memory is halved."""
        plan, whole = flights.plan, self.pairs.metric.whole_batch
        device = self.stack.model.device
        left = chunks.rows[::-1]
        inbox = _Inbox(plan, scores, AHEAD if device.type == "cuda" else 0, lambda n: bar.update(share * n))
        room = chunks.room_of_graphs if chunks.room_of_graphs and flights.is_recordable else 0
        with open_graphs(device, room) as graphs:
            flights.graphs = graphs
            while left:
                rows = left.pop()
                self._foresee(chunks.kept + self.sizes.flight(plan.start[rows], plan.entry[rows]))
                try:
                    found = _fly(flights, scorer, rows, scores if whole else None)
                except (torch.OutOfMemoryError, MemoryError):
                    halves = _halve(rows, plan.group if whole else None)
                    if halves is None:
                        raise
                else:
                    inbox.add(*found)
                    continue
                left += halves[::-1]
                graphs.close()
                empty_device_cache()
            inbox.empty()

    def _foresee(self, n_bytes: int) -> None:
        self.predicted_peak = max(self.predicted_peak, n_bytes)


def _fly(
    flights: Flights, scorer: Scorer, rows: np.ndarray, scores: Tensor | None
) -> tuple[np.ndarray, Tensor | None]:
    """Rows in the order in which they arrive, and their scores, which whole batches write into ``scores``."""
    order, resid = flights.run(rows)
    if scores is None:
        return order, scorer.score_on_device(flights.plan, order, resid)
    scorer.score(flights.plan, order, resid, scores)
    return order, None


class _Inbox:
    """Writes scores as they arrive, chunks behind the launches, and counts the groups that are done."""

    def __init__(
        self, plan: RowPlan, scores: Float[Tensor, "group prompt"], ahead: int, done: Callable[[int], object]
    ) -> None:
        self._plan = plan
        self._scores = scores
        self._ahead = ahead
        self._done = done
        self._waiting: deque[tuple[np.ndarray, ReadBack | None]] = deque()
        self._left = np.bincount(plan.group, minlength=len(scores))
        done(int((self._left == 0).sum()))

    def add(self, rows: np.ndarray, found: Float[Tensor, " row"] | None) -> None:
        """Scores of these rows, still being computed; ``None`` where they are written already."""
        read = None if found is None else ReadBack(found.to(self._scores.dtype))
        self._waiting.append((rows, read))
        while len(self._waiting) > self._ahead:
            self._write()

    def empty(self) -> None:
        """Wait for all that is outstanding."""
        while self._waiting:
            self._write()

    def _write(self) -> None:
        rows, read = self._waiting.popleft()
        groups = self._plan.group[rows]
        if read is not None:
            at = torch.from_numpy(groups), torch.from_numpy(self._plan.prompt[rows])
            self._scores[at] = read.wait()
        before = (self._left == 0).sum()
        self._left -= np.bincount(groups, minlength=len(self._left))
        self._done(int((self._left == 0).sum() - before))


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
