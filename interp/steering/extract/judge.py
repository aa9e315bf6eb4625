"""What a direction is worth: how well it tells prompts apart that it has not seen, and whether it stays put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.probing.quality import draw_weights, probe_quality, with_interval
from interp.errors import SteeringError
from interp.results.agreement import Estimate
from interp.steering.contrast import ContrastRows

Fit = Callable[[ContrastRows], Float[Tensor, " d"]]
"""From rows to a direction."""
_AUC = 2


@dataclass(frozen=True)
class DirectionQuality:
    """Both figures of a direction, with intervals."""

    auc: Estimate
    """Chance that a positive prompt lies higher than a negative one along it, on prompts held out; the interval is of
    these prompts resampled."""
    stability: Estimate
    """Mean absolute cosine of refits on resampled prompts with the whole; low and high are quantiles of
    the refits."""


def judge_direction(
    rows: ContrastRows,
    fit: Fit,
    *,
    read_on: ContrastRows | None = None,
    test_share: float = 0.25,
    n_bootstrap: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> DirectionQuality:
    """AUC on prompts held out, and stability under a bootstrap over prompts, of what ``fit`` finds in ``rows``.

    For the AUC a direction is fitted without ``test_share`` of the prompts, which it is read on (``read_on``: rows of
    the same prompts in the direction's own space, where it is fitted on others, such as latents). For the
    stability it is fitted on ``n_bootstrap`` resamples of all prompts; a resample where nothing is found, such as
    one prompt drawn again and again, counts as a cosine of 0.

    Raises :class:`SteeringError` for a share that leaves a side empty, no resamples, or a confidence outside (0, 1).
    """
    if n_bootstrap < 1 or not 0 < confidence < 1:
        raise SteeringError(
            f"n_bootstrap must be at least 1 and confidence in (0, 1); got {n_bootstrap} and {confidence}."
        )
    whole = fit(rows)
    train, _ = rows.split(test_share, seed)
    _, test = (rows if read_on is None else read_on).split(test_share, seed)
    x, labels = test.stacked()
    weights = draw_weights(torch.arange(len(x)), seed)
    areas = probe_quality(x @ fit(train).to(x), labels > 0, weights)[:, _AUC]
    generator = torch.Generator().manual_seed(seed)
    refits = np.array([_refit(rows.resampled(generator), fit, whole) for _ in range(n_bootstrap)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(refits, (tail, 1 - tail))
    return DirectionQuality(
        auc=Estimate(*with_interval(areas, confidence).tolist()),
        stability=Estimate(float(refits.mean()), float(low), float(high)),
    )


def _refit(rows: ContrastRows, fit: Fit, whole: Tensor) -> float:
    try:
        found = fit(rows).to(whole)
    except SteeringError:
        return 0.0
    return float((found @ whole).abs() / (found.norm() * whole.norm()))
