"""Thresholds with a false positive rate that holds, and figures of a detector with intervals."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.results.agreement import Estimate
from interp.results.ranking import Ranking

_RESAMPLES = 1000


def conformal_threshold(negative: Float[Tensor, " n"], false_positive_rate: float) -> float:
    """The lowest threshold above which a further negative scores with at most this probability.

    The k-th smallest of n held-out scores, ``k = ceil((n + 1) (1 - rate))``: split conformal (Vovk et al. 2005),
    which holds for any distribution on average over draws of these n, as long as the further prompt is
    drawn like them. Raises :class:`SteeringError` for fewer than ``1 / rate - 1`` scores, which bound no such
    rate, for NaN, and for a rate outside (0, 1).
    """
    n, rate = len(negative), false_positive_rate
    if not 0 < rate < 1:
        raise SteeringError(f"a false positive rate lies between 0 and 1; got {rate}.")
    scores = negative.detach().double().cpu()
    if bool(scores.isnan().any()):
        raise SteeringError("negative scores hold NaN; no threshold can be calibrated on them.")
    # a hair less, or rounding would ask for one score more than the formula
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if k > n:
        raise SteeringError(
            f"a false positive rate of {rate:g} needs at least {math.ceil(1 / rate - 1 - 1e-9)} negative prompts to "
            f"calibrate on; got {n}."
        )
    return float(scores.sort().values[k - 1])


def measure_auc(
    positive: Float[Tensor, " hit"],
    negative: Float[Tensor, " miss"],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Area under the ROC curve, ties half, with a percentile interval over prompts of each side.

    Where both sides are parted the interval has no width; it says nothing of prompts unlike these.
    """
    p, n = (side.detach().double().cpu().numpy() for side in (positive, negative))
    value = Ranking(np.concatenate([p, n]), np.arange(len(p) + len(n)) < len(p)).auroc
    # wins of every positive over every negative, so that a resample only weighs them
    wins = (p[:, None] > n) + 0.5 * (p[:, None] == n)
    draw = np.random.default_rng(seed)
    found = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        rows = np.bincount(draw.integers(0, len(p), len(p)), minlength=len(p))
        columns = np.bincount(draw.integers(0, len(n), len(n)), minlength=len(n))
        found[number] = rows @ wins @ columns / (len(p) * len(n))
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def measure_rate(flagged: int, n: int, confidence: float = 0.95) -> Estimate:
    """A share with its exact binomial interval (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if flagged == 0 else float(beta.ppf(tail, flagged, n - flagged + 1))
    high = 1.0 if flagged == n else float(beta.ppf(1 - tail, flagged + 1, n - flagged))
    return Estimate(flagged / n, low, high)
