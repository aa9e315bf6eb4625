"""Thresholds of gates, and how well their scores tell prompts apart."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.results.agreement import Estimate
from interp.results.ranking import Ranking
from interp.steering.monitor.threshold import measure_rate


def threshold_at_best_f1(yes: Float[Tensor, " n"], no: Float[Tensor, " m"]) -> float:
    """The threshold with the best F1 of the scores above it, half way between two scores."""
    scores = torch.cat([yes, no]).double()
    candidates = scores.unique()
    middles = torch.cat([candidates[:1] - 1, (candidates[1:] + candidates[:-1]) / 2])
    hits = (yes.double() > middles[:, None]).sum(1)
    taken = (scores > middles[:, None]).sum(1)
    f1 = 2 * hits / (taken + len(yes))
    return float(middles[f1.argmax()])


def rate_above(scores: Float[Tensor, " n"], threshold: float, confidence: float = 0.95) -> Estimate:
    """Share of scores above a threshold, with its exact binomial interval."""
    return measure_rate(int((scores > threshold).sum()), len(scores), confidence)


def area(yes: Float[Tensor, " n"], no: Float[Tensor, " m"]) -> float:
    """Area under the ROC curve, ties half."""
    scores = torch.cat([yes, no]).double().numpy()
    return Ranking(scores, np.arange(len(scores)) < len(yes)).auroc
