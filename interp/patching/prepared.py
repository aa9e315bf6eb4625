"""What every kind of patching needs before its first patch: runs, baselines, and a way to score."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PatchError, unknown_name
from interp.models.model import Model
from interp.patching.budget import rows_within
from interp.patching.cells import Cell
from interp.patching.hooked import run_hooked
from interp.patching.readout import Readout
from interp.patching.replacement import Replacement, build_replacement
from interp.results import Provenance
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import MetricLike, resolve_metric
from interp.types import Ablation, Direction


@dataclass(frozen=True)
class Prepared:
    """A task on a model, its replacing activations and its two baselines."""

    model: Model
    task: PromptPairs
    direction: Direction
    replacement: Replacement
    readout: Readout
    clean: float
    """Metric of the clean run, averaged over prompts."""
    corrupted: float
    started: float = field(default_factory=time.perf_counter)

    def scores(
        self, groups: Sequence[Sequence[Cell]], memory_budget: int, progress: bool
    ) -> Float[Tensor, "group prompt"]:
        """The metric of every prompt with each group of cells patched together."""
        n_pos = self.task.clean.shape[1]
        rows = rows_within(self.model, memory_budget, n_pos, len(self.readout.columns))
        return run_hooked(
            self.model, self.task, groups, self.replacement, self.readout, self.direction, rows, progress
        ).float()

    def provenance(
        self, method: str, backend_reason: str | None = None, notes: tuple[str, ...] = ()
    ) -> Provenance:
        """How a number made from this was made, up to now."""
        return Provenance(
            model=self.model.name,
            family=self.model.traits.family,
            revision=self.model.revision,
            task=self.task.name,
            n_prompts=len(self.task),
            seed=self.task.seed,
            metric=self.readout.metric.name,
            method=method,
            direction=self.direction,
            ablation=self.replacement.kind,
            backend="hooked",
            backend_reason=backend_reason,
            device=str(self.model.device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - self.started,
            notes=(*_notes(self.task, self.clean, self.corrupted), *notes),
        )


def prepare(
    model: Model,
    task: PromptPairs,
    components: Iterable[tuple[str, int]],
    *,
    direction: Direction,
    ablation: Ablation = "source",
    metric: MetricLike | None = None,
    reference: PromptPairs | Tensor | None = None,
    seed: int = 0,
) -> Prepared:
    """Run the baselines and capture what will replace activations of ``components`` (name, layer).

    Raises :class:`PatchError` or :class:`MetricError` for options that do not fit.
    """
    check_choice("direction", direction, get_args(Direction))
    started = time.perf_counter()
    task = task.to(model.device)
    readout = Readout(model, task, resolve_metric(metric, task))
    replacement = build_replacement(model, task, components, direction, ablation, reference, seed)
    clean, corrupted = (_baseline(model, task, tokens, readout) for tokens in (task.clean, task.corrupted))
    return Prepared(model, task, direction, replacement, readout, clean, corrupted, started)


def check_choice(kind: str, got: str, choices: Iterable[str]) -> None:
    """Raise :class:`PatchError` unless ``got`` is one of ``choices``."""
    if got not in tuple(choices):
        raise PatchError(unknown_name(kind, str(got), choices))


@torch.no_grad()
def _baseline(model: Model, task: PromptPairs, tokens: Tensor, readout: Readout) -> float:
    logits = model(tokens, task.attention_mask, keep_columns=readout.columns)
    return float(readout.score(logits, torch.arange(len(task), device=logits.device)).float().mean())


def _notes(task: PromptPairs, clean: float, corrupted: float) -> tuple[str, ...]:
    notes = []
    if clean == corrupted:
        notes.append("clean and corrupted metric are equal, so recovered scores are undefined (NaN)")
    if task.attention_mask is not None:
        notes.append("prompts differ in length; positions count each prompt's own tokens")
    if len({tuple(row) for row in task.clean.tolist()}) > 1:
        notes.append("position labels are the tokens of the first of the longest prompts")
    return tuple(notes)
