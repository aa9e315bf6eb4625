"""Scores from statistics of the vocabulary are those from its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import MetricError
from interp.kernels.readout import summarise_logits
from interp.tasks import NO_TOKEN, PromptPairs, resolve_metric
from interp.tasks.metrics import (
    METRICS,
    Accuracy,
    LogitDiff,
    Loss,
    Metric,
    Rank,
    Statistics,
    StatisticsRead,
    statistics_read_by,
)

D_VOCAB = 23
WITH_STATISTICS = ("probability", "prob_diff", "kl", "loss", "accuracy", "rank")


@pytest.fixture(name="task")
def task_fixture() -> PromptPairs:
    ids = torch.randint(0, D_VOCAB, (3, 4), generator=torch.Generator().manual_seed(1))
    answers = torch.tensor([[3, 8, NO_TOKEN], [NO_TOKEN, 5, NO_TOKEN], [0, 1, 2]])
    wrong = torch.tensor([[4, NO_TOKEN], [6, 7], [NO_TOKEN, 22]])
    return PromptPairs(clean=ids, corrupted=(ids + 1) % D_VOCAB, answers=answers, wrong=wrong)


def take_statistics(
    metric: Metric, task: PromptPairs, logits: Tensor, prompts: Tensor, clean: Tensor
) -> Statistics:
    read = statistics_read_by(metric, task)
    assert read is not None
    reference = clean if read.divergence else None
    found = summarise_logits(logits, read.tokens, prompts, reference, read.others)
    return Statistics(found.log_sum_exp, found.tokens, found.largest_other, found.n_above, found.divergence)


def draw_logits(n: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, 1, D_VOCAB, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_the_same_score(name: str, task: PromptPairs) -> None:
    metric, prompts = resolve_metric(name), torch.tensor([2, 0, 1, 1, 0, 2, 2, 0])
    logits, clean = draw_logits(8, 0), draw_logits(3, 1)
    # an answer on top, a wrong token on top, a tie with another token, and NaN in a token nobody names
    logits[0, 0, 1] = logits[1, 0, 4] = 20.0
    logits[2, 0, [5, 9]] = 30.0
    logits[3, 0, 17] = torch.nan
    expected = metric.score(logits, prompts, task, clean)
    found = metric.score_statistics(take_statistics(metric, task, logits, prompts, clean), prompts, task)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found[3].isnan() and found.isfinite().sum() == 7


def test_metrics_of_few_tokens_read_logits(task: PromptPairs) -> None:
    assert {name for name in METRICS if statistics_read_by(resolve_metric(name), task)} == set(
        WITH_STATISTICS
    )
    nothing: Any = torch.zeros(1, 1)
    with pytest.raises(MetricError, match="logit_diff is scored from logits"):
        LogitDiff().score_statistics(
            Statistics(nothing, nothing[..., None]), torch.zeros(1, dtype=torch.long), task
        )


class _Elsewhere(Rank):
    def reads(self, task: PromptPairs) -> Any:
        return super().reads(task)


class _Sharper(Accuracy):
    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return super()._score(2 * logits, right, wrong)


class _OwnWay(Loss):
    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return -super()._score(logits, right, wrong)

    def score_statistics(self, statistics: Statistics, prompts: Tensor, task: PromptPairs) -> Tensor:
        return -super().score_statistics(statistics, prompts, task)


class _Halved:
    def _score(self, logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        scores: Tensor = super()._score(logits / 2, right, wrong)  # type: ignore[misc]
        return scores


class _MixedIn(_Halved, Loss):
    pass


class _Renamed(Loss):
    kind = "surprise"


def test_a_subclass_that_scores_otherwise_is_scored_from_logits(task: PromptPairs) -> None:
    assert statistics_read_by(_Elsewhere(), task) is None
    assert statistics_read_by(_Sharper(), task) is None
    assert statistics_read_by(_MixedIn(), task) is None
    assert isinstance(statistics_read_by(_OwnWay(), task), StatisticsRead)
    assert isinstance(statistics_read_by(_Renamed(), task), StatisticsRead)
