"""Accuracy, F1 and area under the ROC curve, with intervals over prompts.

Tokens of one prompt are alike, so whole prompts are resampled: every resample is a weight for each row, and
all figures are computed from weighted counts.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CoderError

RESAMPLES = 400


def draw_weights(
    prompt: Int[Tensor, " row"], seed: int, resamples: int = RESAMPLES
) -> Float[np.ndarray, "resample row"]:
    """Weight 1 for every row, then how often each row's prompt is drawn, a row a resample."""
    _, number = np.unique(prompt.cpu().numpy(), return_inverse=True)
    n = int(number.max()) + 1
    picked = np.random.default_rng(seed).integers(0, n, (resamples, n))
    counts = np.zeros((resamples, n))
    np.add.at(counts, (np.arange(resamples)[:, None], picked), 1.0)
    return np.vstack([np.ones(len(number)), counts[:, number]])


def check_confidence(confidence: float) -> None:
    """Raise :class:`CoderError` for a coverage that is no share between 0 and 1."""
    if not 0 < confidence < 1:
        raise CoderError(f"confidence must lie between 0 and 1; got {confidence}.")


def with_interval(
    found: Float[np.ndarray, "resample *rest"], confidence: float
) -> Float[Tensor, "*rest end"]:
    """Value, low and high: of all rows, and percentiles over resamples where it is defined."""
    tail = (1 - confidence) / 2
    ends = np.full((2, *found.shape[1:]), np.nan)
    there = np.isfinite(found[1:]).any(0)
    # NaN slices would warn
    if there.any():
        ends[:, there] = np.nanquantile(found[1:][:, there], (tail, 1 - tail), axis=0)
    return torch.from_numpy(np.stack([found[0], *ends], axis=-1)).float()


def probe_quality(
    scores: Float[Tensor, " row"], answers: Bool[Tensor, " row"], weights: Float[np.ndarray, "resample row"]
) -> Float[np.ndarray, "resample metric"]:
    """Accuracy, F1 and AUC of yes where the score is above 0, in every resample; NaN where undefined."""
    s, y = scores.double().cpu().numpy(), answers.cpu().numpy()
    said = s > 0
    total = weights.sum(1)
    right = weights @ (said == y)
    hits, taken, true = weights @ (said & y), weights @ said, weights @ y
    f1 = _ratio(2 * hits, taken + true)
    return np.stack([_ratio(right, total), np.where(true > 0, f1, np.nan), _auc(s, y, weights)], axis=1)


def weighted_f1(
    taken: Bool[Tensor, "row target"],
    true: Bool[Tensor, "row target"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, "resample target"]:
    """F1 of several targets in every resample; NaN where nothing is true."""
    said, is_true = taken.cpu().numpy(), true.cpu().numpy()
    n_true = weights @ is_true
    found = _ratio(2 * (weights @ (said & is_true)), weights @ said + n_true)
    return np.where(n_true > 0, found, np.nan)


def balanced_accuracy(
    said: Bool[Tensor, "row *rest"], answers: Bool[Tensor, " row"], weights: Float[np.ndarray, "resample row"]
) -> Float[np.ndarray, "resample *rest"]:
    """Mean of the share of yes found and the share of no found; 0.5 is chance. NaN where an answer is missing."""
    shape = said.shape[1:]
    taken, y = said.flatten(1).cpu().numpy() if shape else said[:, None].cpu().numpy(), answers.cpu().numpy()
    yes, no = weights @ (taken & y[:, None]), weights @ (~taken & ~y[:, None])
    found = (_ratio(yes, (weights @ y)[:, None]) + _ratio(no, (weights @ ~y)[:, None])) / 2
    return found.reshape(len(weights), *shape)


def _auc(s: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance that a yes scores above a no, ties half, with weights."""
    order = np.argsort(s, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(s[order]) != 0])
    ranked = weights[:, order]
    true, false = (np.add.reduceat(ranked * part[order], starts, axis=1) for part in (y, ~y))
    below = false.cumsum(1) - false / 2
    return _ratio((true * below).sum(1), true.sum(1) * false.sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
