"""The two runs of prompt pairs that patched rows build on, and what replaces the base run's activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack, Trace, run_trace, run_traces
from interp.models.interventions import other_rows
from interp.patching.cells import columns_of
from interp.patching.readout import Readout
from interp.patching.replacement import check_kind, refuse_meanless
from interp.patching.wavefront.statistics import score_run
from interp.patching.wavefront.values import (
    Place,
    Values,
    mean_activations,
    read_places,
    replacing_values,
)
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import Metric
from interp.types import Ablation


@dataclass(frozen=True)
class PairRun:
    """Some prompts of a task, run clean and corrupted."""

    task: PromptPairs
    base: Trace
    new: Values
    """What replaces the base run's activations."""
    readout: Readout
    read: Int[Tensor, "prompt k"]
    """Columns that the metric reads."""
    vocab: Int[Tensor, "prompt c"] | None
    """Tokens whose logits it reads; ``None`` is all of them."""
    picked: Float[Tensor, "prompt k c"]
    """What it reads of the base run."""
    clean: Float[Tensor, " prompt"]
    """The metric of the clean run; ``corrupted`` likewise."""
    corrupted: Float[Tensor, " prompt"]
    differs_from: Int[Tensor, " prompt"]
    """First column at which the prompts of each pair differ; the number of columns if none."""
    base_score: Float[Tensor, " prompt"]


class PairRuns:
    """Runs prompt pairs a few at a time, always keeping the same activations.

    Raises :class:`PatchError` for an ablation that does not fit the task or a component.
    """

    def __init__(
        self,
        stack: Stack,
        task: PromptPairs,
        metric: Metric,
        places: Iterable[Place],
        base_places: Iterable[Place],
        *,
        direction: str,
        ablation: Ablation = "source",
        reference: PromptPairs | Tensor | None = None,
        seed: int = 0,
    ) -> None:
        check_kind(task, ablation)
        places = list(places)
        for component, _ in places:
            refuse_meanless(component, ablation)
        self.stack = stack
        self.task = task
        self.metric = metric
        self.denoise = direction == "denoise"
        self.ablation: Ablation = ablation
        self.source_places = read_places(places)
        self.base_places = set(base_places)
        self._order = other_rows(len(task), seed) if ablation == "resample" else None
        self._means: dict[Place, Tensor] = {}
        if ablation in ("mean", "mean-per-position"):
            self._means = self._take_means(places, reference)

    def _take_means(
        self, places: Iterable[Place], reference: PromptPairs | Tensor | None
    ) -> dict[Place, Tensor]:
        task, device = self.task, self.stack.model.device
        if isinstance(reference, PromptPairs):
            tokens, mask = reference.clean, reference.attention_mask
        elif isinstance(reference, Tensor):
            tokens, mask = reference, None
        else:
            tokens, mask = task.clean if self.denoise else task.corrupted, task.attention_mask
        mask = None if mask is None else mask.to(device)
        per_position = self.ablation == "mean-per-position"
        return mean_activations(self.stack, tokens.to(device), mask, places, per_position)

    @torch.no_grad()
    def run(self, rows: Int[Tensor, " prompt"]) -> PairRun:
        """Both runs of some prompts of the task."""
        whole = self.task
        task = whole if len(rows) == len(whole) else whole.select(rows.tolist())
        base, other, source = self._traces(task, rows)
        device = self.stack.model.device
        readout = Readout(task, self.metric)
        read = readout.reads.positions.to(device)
        vocab = None if readout.reads.vocab is None else readout.reads.vocab.to(device)
        at = read[:, :, None].expand(-1, -1, self.stack.traits.d_model)
        streams = [trace.stream[-1].gather(1, at) for trace in (base, other)]
        picked = [self.stack.unembed(stream, vocab) for stream in streams]
        differ = first_difference(task)
        # equal prompts give equal numbers, whatever shapes they were computed in
        differs = (differ < task.clean.shape[1])[:, None, None]
        picked[1] = torch.where(differs, picked[1], picked[0])
        streams[1] = torch.where(differs, streams[1], streams[0])
        runs = list(zip(streams, picked, strict=True))
        clean, corrupted = runs[::-1] if self.denoise else runs
        readout.set_reference(clean[1])
        scores = [score_run(self.stack, readout, *part).float() for part in (clean, corrupted)]
        positions = columns_of(task).positions.to(device)
        return PairRun(
            task=task,
            base=base,
            new=replacing_values(self.ablation, base, source, self._means, positions),
            readout=readout,
            read=read,
            vocab=vocab,
            picked=picked[0],
            clean=scores[0],
            corrupted=scores[1],
            differs_from=differ,
            base_score=scores[1 if self.denoise else 0],
        )

    def _traces(self, task: PromptPairs, rows: Tensor) -> tuple[Trace, Trace, Trace | None]:
        """The base run, the other prompt's run, and the run whose activations replace, if one does."""
        stack, kind, mask = self.stack, self.ablation, task.attention_mask
        base_tokens, other_tokens = (
            (task.corrupted, task.clean) if self.denoise else (task.clean, task.corrupted)
        )
        start = min(int(first_difference(task).min()), task.clean.shape[1] - 1)
        wanted = self.source_places if kind == "source" else set()
        base, other = run_traces(stack, base_tokens, other_tokens, start, mask, self.base_places, wanted)
        if kind != "resample":
            return base, other, other
        assert self._order is not None
        whole = self.task
        tokens = (whole.clean if self.denoise else whole.corrupted)[self._order[rows]]
        return base, other, run_trace(stack, tokens, None, self.source_places)


def first_difference(task: PromptPairs) -> Int[Tensor, " prompt"]:
    """First column at which the prompts of each pair differ; the number of columns if none."""
    unequal = task.clean != task.corrupted
    return torch.where(unequal.any(1), unequal.int().argmax(1), task.clean.shape[1])
