"""How well scores rank the heads, or the pairs of heads, of a circuit that is known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import CircuitError
from interp.results.ranking import Ranking

HeadLike = str | tuple[int, int]
"""``"a9.h6"``, ``"L9H6"`` or ``(9, 6)``."""
HeadPairLike = str | tuple[HeadLike, HeadLike]
"""``"a5.h1->a9.h6<q>"`` (the part is not looked at) or two heads."""

_HEAD = re.compile(r"^(?:a(\d+)\.h(\d+)|L(\d+)H(\d+))$")


@dataclass(frozen=True)
class RankingQuality:
    """Agreement of a ranking with a truth that says of every item whether it belongs.

    Items of equal score are taken together, so their order plays no part. The two best values are over
    all thresholds, chosen *with* the truth: what a threshold set beforehand reaches is no better.
    """

    n: int
    n_true: int
    auroc: float
    """Probability that a true item scores above a false one, ties counting half; 0.5 is chance."""
    average_precision: float
    """Precision averaged over the true items as they are reached; ``n_true / n`` is chance."""
    best_f1: float
    """``2 P R / (P + R)`` of precision and recall at the best threshold."""
    best_f1_threshold: float
    """Items of at least this score are taken."""
    best_tpr_tnr_harmonic_mean: float
    """``2 TPR TNR / (TPR + TNR)`` at the best threshold: what arXiv 2405.12522 reports under the name F1. It
    does not look at precision, so with few true items among many it stays high where F1 is low."""
    best_tpr_tnr_threshold: float


def measure_ranking(scores: Float[np.ndarray, " item"], truth: Bool[np.ndarray, " item"]) -> RankingQuality:
    """Compare scores with the truth.

    Raises :class:`CircuitError` where all items are true, or none is, for then no ranking is better than another.
    """
    n_true, n_false = int(truth.sum()), int((~truth).sum())
    if not n_true or not n_false:
        raise CircuitError(
            f"a ranking is judged by true items against others; got {n_true} true and {n_false} others."
        )
    ranking = Ranking(scores, truth)
    thresholds, taken, hits = scores[ranking.order][ranking.ends - 1], ranking.ends, ranking.found
    f1 = 2 * hits / (n_true + taken)
    recall, specificity = hits / n_true, 1 - (taken - hits) / n_false
    both = recall + specificity
    harmonic = np.divide(2 * recall * specificity, both, out=np.zeros_like(both), where=both > 0)
    return RankingQuality(
        n=len(scores),
        n_true=n_true,
        auroc=ranking.auroc,
        average_precision=ranking.average_precision,
        best_f1=float(f1.max()),
        best_f1_threshold=float(thresholds[f1.argmax()]),
        best_tpr_tnr_harmonic_mean=float(harmonic.max()),
        best_tpr_tnr_threshold=float(thresholds[harmonic.argmax()]),
    )


def mark_heads(heads: Iterable[HeadLike], n_layers: int, n_heads: int) -> Bool[np.ndarray, "layer head"]:
    """Which heads are named. Raises :class:`CircuitError` for what is no head, or none of this model."""
    found = np.zeros((n_layers, n_heads), dtype=bool)
    for head in heads:
        found[_read_head(head, n_layers, n_heads)] = True
    return found


def mark_pairs(
    pairs: Iterable[HeadPairLike], n_layers: int, n_heads: int
) -> Bool[np.ndarray, "sender receiver"]:
    """Which pairs of heads are named, heads numbered layer by layer.

    Raises :class:`CircuitError` for a pair that is not of two heads, the first in an earlier layer.
    """
    found = np.zeros((n_layers * n_heads, n_layers * n_heads), dtype=bool)
    for pair in pairs:
        ends = pair.partition("->")[::2] if isinstance(pair, str) else pair
        sender, receiver = (
            _read_head(end.partition("<")[0] if isinstance(end, str) else end, n_layers, n_heads)
            for end in ends
        )
        if sender[0] >= receiver[0]:
            raise CircuitError(f"{pair!r}: the first head must be in an earlier layer than the second.")
        found[sender[0] * n_heads + sender[1], receiver[0] * n_heads + receiver[1]] = True
    return found


def _read_head(head: HeadLike, n_layers: int, n_heads: int) -> tuple[int, int]:
    if isinstance(head, str):
        match = _HEAD.match(head)
        if match is None:
            raise CircuitError(
                f"{head!r} is no head; only heads and pairs of heads have scores here. A head is written 'a9.h6', "
                "'L9H6' or (9, 6), a pair 'a5.h1->a9.h6'."
            )
        layer, number = (int(part) for part in match.groups() if part is not None)
    else:
        layer, number = head
    if not (0 <= layer < n_layers and 0 <= number < n_heads):
        raise CircuitError(f"no head {head!r}: the model has {n_layers} layers of {n_heads} heads.")
    return layer, number
