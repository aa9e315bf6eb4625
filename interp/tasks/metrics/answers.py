"""Metrics of the answers a task names, read at one labelled position (``END`` unless told).

A task may name several right and several wrong tokens a prompt; each class says what it makes of
them. ``p`` is the softmax over the whole vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.tasks.base import PromptPairs
from interp.tasks.metrics.contract import Metric, Reads, Statistics, StatisticsRead, mask_of, widen


class AnswerMetric(Metric):
    """A metric of a task's answers at the position labelled ``at``."""

    kind: str
    whole_vocabulary: bool = True

    def __init__(self, at: str = "END") -> None:
        self.at = at
        self.name = self.kind if at == "END" else f"{self.kind}@{at}"

    def reads(self, task: PromptPairs) -> Reads:
        """One column a prompt: the whole vocabulary, or the answers and then the wrong tokens."""
        vocab = None if self.whole_vocabulary else torch.cat([task.answers, task.wrong], dim=1)
        return Reads(task.columns_of(self.at)[:, None], vocab)

    def score(
        self,
        logits: Float[Tensor, "row k c"],
        prompts: Int[Tensor, " row"],
        task: PromptPairs,
        reference: Float[Tensor, "prompt k c"] | None = None,
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score`; ``k`` is 1."""
        expected = task.answers.shape[1] + task.wrong.shape[1]
        if logits.shape[1] != 1 or (not self.whole_vocabulary and logits.shape[2] != expected):
            raise MetricError(
                f"{self.name} reads one column a row"
                f"{'' if self.whole_vocabulary else f' and {expected} vocabulary entries'}; got logits of "
                f"shape {tuple(logits.shape)}. Pick them with metric.reads(task).gather(full_logits)."
            )
        index = prompts.to(task.answers.device)
        right, wrong = task.answers[index].to(logits.device), task.wrong[index].to(logits.device)
        return self._score(widen(logits[:, 0]), right, wrong)

    @abstractmethod
    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        """One number a row from logits [row, c] and token ids [row, k], filled with ``NO_TOKEN``."""


class LogitDiff(AnswerMetric):
    """Mean logit of the answers minus mean logit of the wrong tokens.

    With one token on each side this is the logit difference of Wang et al. (2022). It reads those
    few columns of the vocabulary and needs no softmax.
    """

    kind = "logit_diff"
    whole_vocabulary = False

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        n = right.shape[1]
        return _masked_mean(logits[:, :n], mask_of(right)) - _masked_mean(logits[:, n:], mask_of(wrong))


class PairAccuracy(AnswerMetric):
    """1 where the best answer's logit is above the best wrong token's, else 0. No gradient."""

    kind = "pair_accuracy"
    whole_vocabulary = False
    differentiable = False

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        n = right.shape[1]
        best, rival = (
            part.masked_fill(~mask, -torch.inf).amax(dim=1)
            for part, mask in ((logits[:, :n], mask_of(right)), (logits[:, n:], mask_of(wrong)))
        )
        return _nan_where((best > rival).to(logits.dtype), best.isnan() | rival.isnan())


class Probability(AnswerMetric):
    """Summed probability of the answers: that the next token is one of them."""

    kind = "probability"

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return _total_log_probability(logits, right).exp()

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The answers."""
        return StatisticsRead(task.answers)

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        return _log_probability(statistics, task.answers, prompts).exp()


class ProbDiff(AnswerMetric):
    """Summed probability of the answers minus that of the wrong tokens (Hanna et al. 2023)."""

    kind = "prob_diff"

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return _total_log_probability(logits, right).exp() - _total_log_probability(logits, wrong).exp()

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The answers, then the wrong tokens."""
        return StatisticsRead(torch.cat([task.answers, task.wrong], dim=1))

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        right, wrong = (
            _log_probability(statistics, tokens, prompts, first).exp()
            for tokens, first in ((task.answers, 0), (task.wrong, task.answers.shape[1]))
        )
        return right - wrong


class Loss(AnswerMetric):
    """Minus the log of the answers' summed probability, in nats; cross-entropy for one answer."""

    kind = "loss"
    higher_is_clean = False

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return -_total_log_probability(logits, right)

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The answers."""
        return StatisticsRead(task.answers)

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        return -_log_probability(statistics, task.answers, prompts)


class Accuracy(AnswerMetric):
    """1 where an answer's logit is above every other token's, else 0; a tie is 0. No gradient."""

    kind = "accuracy"
    differentiable = False

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        mask = mask_of(right)
        others = logits.scatter(1, _filled(right, mask), -torch.inf)
        best = logits.gather(1, _filled(right, mask)).amax(dim=1)
        return _nan_where((best > others.amax(dim=1)).to(logits.dtype), logits.isnan().any(dim=1))

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The answers, and all tokens beside them."""
        return StatisticsRead(task.answers, others=True)

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        assert statistics.largest_other is not None
        best = _masked(statistics, task.answers, prompts).amax(dim=1)
        found = (best > statistics.largest_other[:, 0]).to(best.dtype)
        return _nan_where(found, statistics.log_sum_exp[:, 0].isnan())


class Rank(AnswerMetric):
    """How many tokens have a logit above the best answer's; 0 is the top. No gradient."""

    kind = "rank"
    higher_is_clean = False
    differentiable = False

    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        best = logits.gather(1, _filled(right, mask_of(right))).amax(dim=1, keepdim=True)
        return _nan_where((logits > best).sum(dim=1).to(logits.dtype), logits.isnan().any(dim=1))

    def reads_statistics(self, task: PromptPairs) -> StatisticsRead:
        """The answers, and all tokens beside them."""
        return StatisticsRead(task.answers, others=True)

    def score_statistics(
        self, statistics: Statistics, prompts: Int[Tensor, " row"], task: PromptPairs
    ) -> Float[Tensor, " row"]:
        """See :meth:`Metric.score_statistics`."""
        assert statistics.n_above is not None
        total = statistics.log_sum_exp[:, 0]
        return _nan_where(statistics.n_above[:, 0].to(total.dtype), total.isnan())


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    # where, not a product: whatever stands in an unused column, NaN included, stays out
    return torch.where(mask, values, 0.0).sum(dim=1) / mask.sum(dim=1)


def _total_log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    mask = mask_of(tokens)
    picked = logits.gather(1, tokens.clamp(min=0)).masked_fill(~mask, -torch.inf)
    return picked.logsumexp(dim=1) - logits.logsumexp(dim=1)


def _log_probability(statistics: Statistics, tokens: Tensor, prompts: Tensor, first: int = 0) -> Tensor:
    """Log of the summed probability of a row's tokens, whose logits begin at column ``first``."""
    return _masked(statistics, tokens, prompts, first).logsumexp(dim=1) - statistics.log_sum_exp[:, 0]


def _masked(statistics: Statistics, tokens: Tensor, prompts: Tensor, first: int = 0) -> Tensor:
    """Logits of a row's tokens, -inf where it has none."""
    mask = mask_of(tokens.to(prompts.device)[prompts])
    return statistics.tokens[:, 0, first : first + tokens.shape[1]].masked_fill(~mask, -torch.inf)


def _filled(tokens: Tensor, mask: Tensor) -> Tensor:
    """The same sets of tokens with gaps filled by a token of the row, which changes no maximum."""
    first = tokens.gather(1, mask.int().argmax(dim=1, keepdim=True))
    return torch.where(mask, tokens, first)


def _nan_where(values: Tensor, bad: Tensor) -> Tensor:
    """A comparison with NaN is False, which would pass for a wrong answer or the best rank."""
    return values.masked_fill(bad, torch.nan)
