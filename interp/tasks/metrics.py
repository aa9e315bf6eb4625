"""Metrics: what a patched run is scored by.

A metric says what it reads (:class:`Reads`: some columns of the sequence, and a few vocabulary
entries or all of them) and turns just that into one number a row. A sweep can then compute only
what is read. Any callable on full logits is a metric too (:class:`CallableMetric`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.tasks.base import PromptPairs


@dataclass(frozen=True)
class Reads:
    """Which logits a metric needs, for every prompt of a task."""

    positions: Int[Tensor, "prompt k"]
    """Columns of the (padded) sequence."""
    vocab: Int[Tensor, "prompt c"] | None
    """Vocabulary entries, ``NO_TOKEN`` where a row has fewer; ``None`` is the whole vocabulary."""


class Metric(ABC):
    """A number for every row of logits.

    ``name`` is what provenance and titles show; ``per_token_gradient`` metrics are differentiable.
    """

    name: str
    higher_is_clean: bool = True

    @abstractmethod
    def reads(self, task: PromptPairs) -> Reads:
        """What this metric reads of ``task``'s logits."""

    @abstractmethod
    def score(
        self,
        logits: Float[Tensor, "row k c"],
        prompts: Int[Tensor, "row"],
        task: PromptPairs,
        reference: Float[Tensor, "prompt k c"] | None = None,
    ) -> Float[Tensor, "row"]:
        """One number a row from the logits that :meth:`reads` names.

        ``prompts`` says which prompt of the task each row belongs to. ``reference`` holds the
        clean run's logits at the same places, for metrics that compare with it
        (``needs_reference``).
        """

    needs_reference: bool = False
