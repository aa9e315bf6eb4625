"""From what a caller writes to a metric, and from a metric to a recovered score."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from interp.errors import MetricError, unknown_name
from interp.tasks.base import PromptPairs
from interp.tasks.metrics.answers import Accuracy, LogitDiff, Loss, PairAccuracy, Probability, ProbDiff, Rank
from interp.tasks.metrics.contract import Metric
from interp.tasks.metrics.custom import CallableMetric
from interp.tasks.metrics.divergence import KL

METRICS: Mapping[str, Callable[[str], Metric]] = MappingProxyType(
    {
        "logit_diff": LogitDiff,
        "probability": Probability,
        "prob_diff": ProbDiff,
        "kl": KL,
        "loss": Loss,
        "accuracy": Accuracy,
        "pair_accuracy": PairAccuracy,
        "rank": Rank,
    }
)
"""Metrics by name; each takes the label of the position that it reads."""

MetricLike = str | Metric | Callable[[Tensor], Tensor | float]


def resolve_metric(metric: MetricLike | None, task: PromptPairs | None = None) -> Metric:
    """The metric meant: a name (``"kl"``, ``"logit_diff@S2"``), a metric, or any callable on logits.

    ``None`` is the task's usual metric, and the logit difference where it has none. Raises
    :class:`MetricError` for an unknown name (suggesting the nearest) or another kind of object,
    and :class:`~interp.errors.TaskError` for a label the task does not have.

    >>> resolve_metric("prob-diff")
    <metric prob_diff>
    """
    if metric is None:
        usual = None if task is None else task.metric
        return LogitDiff() if usual is None else usual
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        name, _, label = metric.partition("@")
        key = name.strip().lower().replace("-", "_")
        if key not in METRICS:
            raise MetricError(unknown_name("metric", name, METRICS))
        if label and task is not None:
            task.columns_of(label)
        return METRICS[key](label or "END")
    if inspect.isclass(metric) and issubclass(metric, Metric):
        raise MetricError(
            f"got the class {metric.__name__}; give a metric made from it: {metric.__name__}()."
        )
    if callable(metric):
        return CallableMetric(metric)
    raise MetricError(
        f"a metric is a name ({', '.join(METRICS)}), a Metric, or a function of logits [batch, pos, "
        f"d_vocab]; got {type(metric).__name__}: {metric!r}."
    )


Value = TypeVar("Value", float, Tensor)


def recovered_score(value: Value, clean: float, corrupted: float) -> Value:
    """``(value - corrupted) / (clean - corrupted)``: 0 = corrupted, 1 = clean.

    NaN when both baselines are equal: nothing was lost that could be recovered.

    >>> recovered_score(1.5, clean=3.0, corrupted=1.0)
    0.25
    """
    gap = clean - corrupted
    if gap == 0:
        return torch.full_like(value, torch.nan) if isinstance(value, Tensor) else float("nan")
    return (value - corrupted) / gap
