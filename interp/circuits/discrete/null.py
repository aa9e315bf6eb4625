"""What heads score when the labels mean nothing: shuffled labels on the same codes.

The coder is trained without the labels, so its codes are the same under any labels and nothing is
trained again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.results.code_counts import count_different

_LARGEST = 1 << 22
"""Codes that are sorted at once."""


@dataclass(frozen=True)
class ShuffledScores:
    """Codes unique to positives, compared with those under shuffled labels."""

    p_values: Float[np.ndarray, " head"]
    family_p_values: Float[np.ndarray, " head"]
    means: Float[np.ndarray, " head"]
    """Of the counts under shuffled labels."""


def shuffle_labels(
    n_pairs: int, n_shuffles: int, paired: bool, seed: int
) -> Bool[np.ndarray, "shuffle prompt"]:
    """Labels of ``n_pairs`` positive prompts followed by as many negative ones, as they are and shuffled.

    ``paired`` swaps the labels within each pair, each swap as likely as none: what is exchangeable when
    both prompts were made from each other. The first row is the labels as they are.
    """
    draw = np.random.default_rng(seed)
    true = np.arange(2 * n_pairs) < n_pairs
    if paired:
        first = draw.random((n_shuffles, n_pairs)) < 0.5
        shuffled = np.concatenate([first, ~first], axis=1)
    else:
        shuffled = draw.permuted(np.tile(true, (n_shuffles, 1)), axis=1)
    return np.concatenate([true[None], shuffled])


def score_shuffled(
    codes: Int[np.ndarray, "prompt head"], labels: Bool[np.ndarray, "shuffle prompt"]
) -> ShuffledScores:
    """Compare the first row of ``labels`` with all of them.

    A p-value is the share of rows, the first included, in which the head scores at least as much. The
    family's is the share in which any head has a p-value at least as small (Westfall and Young 1993, min P).
    """
    n_heads = codes.shape[1]
    union = count_different(codes)
    # every row has as many negatives
    negatives = np.argsort(labels, axis=1, kind="stable")[:, : int((~labels[0]).sum())]
    size = max(1, _LARGEST // (negatives.shape[1] * n_heads))
    unique = np.concatenate(
        [
            union - count_different(codes[negatives[start : start + size]].swapaxes(0, 1))
            for start in range(0, len(labels), size)
        ]
    )
    p = np.stack([_share_at_least(column) for column in unique.T], axis=1)
    smallest = np.sort(p.min(axis=1))
    family = np.searchsorted(smallest, p[0], side="right") / len(labels)
    return ShuffledScores(p[0], family, unique[1:].mean(axis=0))


def _share_at_least(values: Int[np.ndarray, " shuffle"]) -> Float[np.ndarray, " shuffle"]:
    """Of each value, the share of all that are as large or larger."""
    below = np.searchsorted(np.sort(values), values, side="left")
    return 1 - below / len(values)
