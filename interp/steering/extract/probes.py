"""Directions of linear probes.

Probes are readers, not writers. Their weights say which direction tells the sides apart best, which is not the
direction in which the sides differ: where an entry of the activation is noise that the two sides share, a probe
puts weight on it to subtract that noise, and adding the weights writes what no prompt ever had. With equal covariances
``S`` the best reader is ``S^-1 (mu_1 - mu_0)``, the writer ``mu_1 - mu_0``; they are parallel only where ``S`` is a
multiple of one. Compare both at equal dose before a probe is used to steer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.probing.logistic import fit_probe
from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows

_LEAST_SHRINKAGE = 1e-6
"""Keeps entries that never vary from being divided by 0."""


def logistic_weights(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """Weights of a logistic regression of the label, both sides weighed the same (:func:`fit_probe`).

    A reader, see the head of this module. Entries are brought to variance 1 for the penalty, which also keeps the
    weights finite where rows are fewer than entries. Raises :class:`SteeringError` for one row a side: it would weigh
    each entry by one over its difference.
    """
    if len(rows.positive) + len(rows.negative) < 3:
        raise SteeringError(
            "logistic needs more than one prompt a side; give more, or take 'mean-difference'."
        )
    x, labels = rows.stacked()
    return fit_probe(x, labels > 0, balanced=True).weights


def lda_weights(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """Linear discriminant ``S^-1 (mu_1 - mu_0)``, S the shrunk covariance within sides (Fisher 1936).

    A reader, see the head of this module. S is shrunk towards a multiple of one by :func:`shrink`.
    Raises :class:`SteeringError` where rows of a side do not vary, as with one row a side.
    """
    p, n = rows.positive.double(), rows.negative.double()
    within = torch.cat([p - p.mean(0), n - n.mean(0)])
    mean, share = shrink(within)
    if not mean > 1e-12 * float(rows.stacked()[0].double().square().mean()):
        raise SteeringError(
            f"lda needs rows that vary within their side; {len(p)} positive and {len(n)} negative ones do not. Give "
            "more prompts, or take 'mean-difference'."
        )
    return _solve(within, mean, max(share, _LEAST_SHRINKAGE), p.mean(0) - n.mean(0))


def shrink(centred: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Mean variance ``m`` and share ``a`` such that ``(1 - a) S + a m I`` is nearest to the true covariance.

    ``S = X^T X / n`` of the centred rows. Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional
    covariance matrices", J. Multivariate Analysis 88, lemmas 3.2 to 3.4, in closed form:
    ``a = min(b, e) / e`` with ``e = |S - m I|^2`` and ``b = (sum_k |x_k|^4 / n - |S|^2) / n``.
    """
    n, d = centred.shape
    lengths = centred.square().sum(1)
    mean = float(lengths.sum()) / (n * d)
    # |X^T X| = |X X^T|: the smaller one
    gram = centred.T @ centred if n >= d else centred @ centred.T
    size = float(gram.square().sum()) / n**2
    spread = size - d * mean**2
    error = (float(lengths.square().sum()) / n - size) / n
    return mean, min(max(error / spread, 0.0), 1.0) if spread > 0 else 0.0


def _solve(
    centred: Float[Tensor, "n d"], mean: float, share: float, difference: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """``((1 - share) S + share * mean I)^-1 difference``, by the smaller of two systems (Woodbury)."""
    n, d = centred.shape
    ridge, kept = share * mean, (1 - share) / n
    if n >= d or not kept:
        covariance = kept * centred.T @ centred + ridge * torch.eye(d, dtype=centred.dtype)
        return torch.linalg.solve(covariance, difference)
    inner = ridge / kept * torch.eye(n, dtype=centred.dtype) + centred @ centred.T
    return (difference - centred.T @ torch.linalg.solve(inner, centred @ difference)) / ridge
