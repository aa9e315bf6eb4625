"""Positive and negative prompts, and which of them the coder is not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import CircuitError
from interp.lenses.prompts import PromptBatch, Prompts, read_prompts
from interp.models.model import Model
from interp.tasks.base import PromptPairs


@dataclass(frozen=True)
class Sides:
    """As many positive as negative prompts, in their order: first all positive ones."""

    positives: PromptBatch
    negatives: PromptBatch
    paired: bool
    """Whether positive and negative prompt i were made from each other."""
    held_out: Bool[Tensor, " prompt"]
    """Of both sides; prompt i of both sides stands in the same part."""

    @property
    def positive(self) -> Bool[Tensor, " prompt"]:
        """Which are positive."""
        return torch.arange(len(self.held_out)) < len(self.positives)

    def count_repeated(self) -> int:
        """Held-out prompts that are, token by token, among those trained on."""
        prompts = _as_tuples(self.positives) + _as_tuples(self.negatives)
        held_out = self.held_out.tolist()
        trained = {prompt for prompt, held in zip(prompts, held_out, strict=True) if not held}
        return sum(prompt in trained for prompt, held in zip(prompts, held_out, strict=True) if held)


def read_sides(
    model: Model,
    positives: Prompts,
    negatives: Prompts | None,
    holdout: float,
    generator: torch.Generator,
) -> Sides:
    """Read both sides, and draw which prompts are held out: the share ``holdout`` of each side.

    Raises :class:`CircuitError` without negatives, for sides of unequal number, and where a part would
    be empty; :class:`LensError` for prompts that cannot be read.
    """
    first = read_prompts(model, positives)
    if negatives is not None:
        second = read_prompts(model, negatives)
    elif isinstance(positives, PromptPairs):
        second = read_prompts(model, positives, run="corrupted")
    else:
        raise CircuitError(
            "positives without negatives: only a task brings corrupted prompts; give prompts on which the behaviour "
            "is not needed as negatives."
        )
    n = len(first)
    if len(second) != n:
        raise CircuitError(
            f"{n} positive and {len(second)} negative prompts; give as many of each, or the side with more shows more "
            "codes by its number alone."
        )
    n_held_out = round(holdout * n)
    if not 0 < n_held_out < n:
        raise CircuitError(
            f"holdout={holdout} of {n} prompts a side leaves {n - n_held_out} to train on and {n_held_out} to count "
            "codes on; both need at least one."
        )
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:n_held_out]] = True
    return Sides(first, second, negatives is None, chosen.repeat(2))


def _as_tuples(batch: PromptBatch) -> list[tuple[int, ...]]:
    real = batch.columns.real
    return [tuple(row[kept].tolist()) for row, kept in zip(batch.tokens.cpu(), real, strict=True)]
