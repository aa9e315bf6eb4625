"""Bootstrap intervals over prompts, the same resamples for every circuit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.patching.agreement import N_RESAMPLES, estimate_from
from interp.results import Estimate


def resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """[resample, row] Means of ``values`` [row, prompt] over prompts drawn with replacement.

    The same prompts are drawn for every row.
    """
    n = values.shape[1]
    picked = np.random.default_rng(seed).integers(0, n, (N_RESAMPLES, n))
    counts = np.zeros((N_RESAMPLES, n))
    np.add.at(counts, (np.arange(N_RESAMPLES)[:, None], picked), 1.0)
    return counts @ values.T / n


@dataclass(frozen=True, eq=False)
class Shares:
    """Faithfulness of every row, and of every row in each resample of the prompts."""

    value: np.ndarray
    """[row]"""
    resamples: np.ndarray
    """[resample, row]"""

    def interval(self, row: int, confidence: float) -> Estimate:
        """Of one row's faithfulness."""
        return percentiles(self.value[row], self.resamples[:, row], confidence)


def bootstrap_shares(
    per_prompt: Float[Tensor, "row prompt"],
    full: Float[Tensor, " prompt"],
    empty: Float[Tensor, " prompt"],
    seed: int,
) -> Shares:
    """Ratios of means, numerator and denominator from the same resample; NaN where a denominator is 0."""
    stacked = np.vstack([x.detach().double().cpu().numpy() for x in (per_prompt, full[None], empty[None])])
    return Shares(_ratio(stacked.mean(1)[None])[0], _ratio(resampled_means(stacked, seed)))


def _ratio(means: np.ndarray) -> np.ndarray:
    *_, full, empty = means.T
    gap = (full - empty)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap != 0, (means[:, :-2] - empty[:, None]) / gap, np.nan)


def percentiles(value: float, resamples: np.ndarray, confidence: float) -> Estimate:
    """A number with the percentile interval of those resamples in which it is defined."""
    found = resamples[np.isfinite(resamples)]
    if not len(found) or not np.isfinite(value):
        return Estimate(float(value), float("nan"), float("nan"))
    return estimate_from(float(value), found, confidence)


def integrate(values: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """[...] The trapezoid rule over the last axis, from the first fraction to the last; NaN of one fraction."""
    if len(fractions) < 2:
        return np.full(values.shape[:-1], np.nan)
    return np.trapezoid(values, np.asarray(fractions), axis=-1)
