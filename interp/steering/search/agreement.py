"""How scores of candidates agree with measured effects: one number a sample of prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from interp.results.agreement import Estimate


def rank_correlations(
    effects: Float[np.ndarray, "sample candidate"], scores: Float[np.ndarray, " candidate"]
) -> Float[np.ndarray, " sample"]:
    """Spearman's correlation of scores with effects over the candidates that have both; NaN below 3 of them."""
    from scipy.stats import rankdata

    both = np.isfinite(scores) & np.isfinite(effects).all(0)
    if both.sum() < 3 or len(set(scores[both].tolist())) < 2:
        return np.full(len(effects), np.nan)
    x, y = rankdata(effects[:, both], axis=1), rankdata(scores[both])
    x, y = x - x.mean(1, keepdims=True), y - y.mean()
    size = np.sqrt((x * x).sum(1) * (y * y).sum())
    return np.divide(x @ y, size, out=np.full(len(effects), np.nan), where=size > 0)


def regrets(
    effects: Float[np.ndarray, "sample candidate"], scores: Float[np.ndarray, " candidate"]
) -> Float[np.ndarray, " sample"]:
    """1 minus the effect of the candidate with the highest score over the best effect.

    NaN without a score, where the choice has no effect measured, and where no effect is above 0.
    """
    if not np.isfinite(scores).any():
        return np.full(len(effects), np.nan)
    best = np.nanmax(effects, axis=1)
    found = effects[:, int(np.nanargmax(scores))] / np.where(best > 0, best, np.nan)
    return np.asarray(1 - found)


def top_overlaps(
    effects: Float[np.ndarray, "sample candidate"], scores: Float[np.ndarray, " candidate"], k: int
) -> Float[np.ndarray, " sample"]:
    """Share of the ``k`` best effects that are among the ``k`` highest scores; NaN without a score.

    Candidates without a score or an effect come last and are never counted as found.
    """
    n = min(k, len(scores))
    if not np.isfinite(scores).any():
        return np.full(len(effects), np.nan)
    chosen = set(np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")[:n].tolist())
    chosen = {i for i in chosen if np.isfinite(scores[i])}
    best = np.argsort(-np.where(np.isfinite(effects), effects, -np.inf), axis=1, kind="stable")[:, :n]
    found = np.isin(best, list(chosen)) & np.isfinite(np.take_along_axis(effects, best, axis=1))
    return np.asarray(found.mean(1))


def with_interval(values: np.ndarray, confidence: float) -> Estimate:
    """The first is of all prompts, the others of resamples."""
    resampled = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(resampled):
        return Estimate(float(values[0]), float("nan"), float("nan"))
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Estimate(float(values[0]), float(low), float(high))
