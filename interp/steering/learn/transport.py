"""Transport between two samples: the distance of sorted activations, and maps that are known in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.operations import AffineMap


def couple_sorted(
    n: int, m: int
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, " pair"]]:
    """The coupling of two sorted samples of ``n`` and ``m``: which goes to which, and with what share of all.

    It is the optimal one for every convex cost: equal quantiles go together. Of equal sizes, entry i goes to
    entry i; otherwise entries are split where their shares of 1/n and 1/m do not end together.
    """
    ends = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def sorted_distance(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Squared 2-Wasserstein distance between the samples of every neuron, exact for unequal sizes too.

    LinEAS (arXiv 2503.10679) compares sorted samples: they are the quantile functions. Differentiable in both.
    """
    i, j, share = (part.to(source.device) for part in couple_sorted(len(source), len(target)))
    ordered, wanted = source.sort(dim=0).values, target.sort(dim=0).values
    return (share.to(source)[:, None] * (ordered[i] - wanted[j]) ** 2).sum(0)


def fit_sorted_line(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """The line through every neuron's sorted samples: Linear-AcT (Rodriguez et al. 2024, arXiv 2410.23054, eq. 5).

    ``w = cov(x, y) / var(x)`` of sorted samples, ``b = mean(y) - w mean(x)``. A neuron that is constant over the
    source is moved, not scaled.
    """
    i, j, share = couple_sorted(len(source), len(target))
    weight = share.to(source)[:, None]
    x, y = source.sort(dim=0).values[i], target.sort(dim=0).values[j]
    mean_x, mean_y = (weight * x).sum(0), (weight * y).sum(0)
    variance = (weight * (x - mean_x) ** 2).sum(0)
    covariance = (weight * (x - mean_x) * (y - mean_y)).sum(0)
    w = torch.where(variance > 0, covariance / torch.where(variance > 0, variance, 1.0), 1.0)
    return AffineMap(w, mean_y - w * mean_x)


def fit_scale(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Every neuron's mean and standard deviation to those of the target: optimal between normal distributions.

    A neuron that is constant over the source is moved, not scaled.
    """
    spread, wanted = source.std(0, correction=0), target.std(0, correction=0)
    w = torch.where(spread > 0, wanted / torch.where(spread > 0, spread, 1.0), 1.0)
    return AffineMap(w, target.mean(0) - w * source.mean(0))


def fit_gaussian(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], shrinkage: float) -> AffineMap:
    """The optimal map between two normal distributions, with a full matrix (Knott & Smith 1984).

    ``A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2`` for covariances S and T, each shrunk towards the one multiple of the
    identity that has the average variance of both: ``(1 - shrinkage) C + shrinkage * mean_variance * I``. At 1
    it is the mean difference. With fewer samples than neurons there must be some. Raises
    :class:`SteeringError` for a shrinkage outside (0, 1].
    """
    if not 0 < shrinkage <= 1:
        raise SteeringError(
            f"shrinkage lies in (0, 1]: without any, {len(source)} samples of {source.shape[1]} neurons give no "
            f"map; got {shrinkage}."
        )
    sides = [rows.double() for rows in (source, target)]
    covariances = [rows.T.cov(correction=0).reshape(rows.shape[1], -1) for rows in sides]
    identity = torch.eye(source.shape[1], dtype=torch.float64, device=source.device)
    level = sum(float(one.trace()) for one in covariances) / (2 * source.shape[1])
    if not level > 0:
        raise SteeringError(
            "the activations of both sides do not vary; there is no map but their difference."
        )
    s, t = ((1 - shrinkage) * one + shrinkage * level * identity for one in covariances)
    root, inverse = _powers(s)
    middle, _ = _powers(root @ t @ root)
    weight = inverse @ middle @ inverse
    means = [rows.mean(0) for rows in sides]
    return AffineMap(weight.to(source), (means[1] - weight @ means[0]).to(source))


def _powers(matrix: Float[Tensor, "d d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Square root and inverse square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp(min=1e-12 * float(values.max())).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
