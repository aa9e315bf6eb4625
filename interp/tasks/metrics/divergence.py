"""How far a run's next-token distribution is from the clean run's."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.tasks.base import PromptPairs
from interp.tasks.metrics.contract import Metric, Reads, Statistics, StatisticsRead, widen


class KL(Metric):
    """``KL(clean || run)`` over the whole vocabulary at the position labelled ``at``, in nats.

    0 for the clean run itself, so a recovered score is 1 where patching brings the clean
    distribution back. Takes the clean run's logits as ``reference``.
    """

    higher_is_clean = False
    needs_reference = True

    def __init__(self, at: str = "END") -> None:
        self.at = at
        self.name = "kl" if at == "END" else f"kl@{at}"

    def reads(self, task: PromptPairs) -> Reads:
        """The whole vocabulary at one column a prompt."""
        return Reads(task.columns_of(self.at)[:, None], None)

    def score(
        self,
        logits: Float[Tensor, "row k c"],
        prompts: Int[Tensor, " row"],
        task: PromptPairs,
        reference: Float[Tensor, "prompt k c"] | None = None,
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score`. Raises :class:`MetricError` without a reference."""
        if reference is None:
            raise MetricError("kl compares with the clean run; give its logits as reference=...")
        clean = reference[prompts.to(reference.device)].to(logits.device)
        log_clean = widen(clean).log_softmax(dim=-1)
        log_run = widen(logits).log_softmax(dim=-1)
        # a token the clean run rules out (-inf) adds nothing, though 0 * inf would be NaN
        terms = torch.where(log_clean == -torch.inf, 0.0, log_clean.exp() * (log_clean - log_run))
        return terms.sum(dim=-1).mean(dim=1)

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The divergence alone."""
        return StatisticsRead(task.answers[:, :0], divergence=True)

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        assert statistics.divergence is not None
        return statistics.divergence.mean(dim=1)
