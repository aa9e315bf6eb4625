"""Directions along which pairs differ most: principal components, uncentred, centred and of random order.

Peers take "PCA of the differences" from a library that centres its input. Differences of pairs in a fixed order have
the direction itself as their mean, so that centring takes it away; LAT escapes by putting pairs in random order.

Known shortcoming of all three: what is found is what pairs differ in most. Where texts of a pair differ in more than
the attribute, that is something else: give minimal pairs, or take the mean difference, which needs none.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows

_ROUNDING = 1e-6
"""A share of the activations' own length below which what is left of them is rounding."""


def top_component(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """The direction of which differences of pairs hold most: their top right singular vector, not centred.

    Its sign is that of the mean difference; unpaired rows are paired at random by ``seed``. With one pair it
    is the mean difference. Raises :class:`SteeringError` where all pairs are equal.
    """
    return _towards(_first_component(rows.differences(seed).double(), _rounding(rows), "pca"), rows)


def top_centred_component(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """The same of differences less their mean, as libraries do it that hand differences to a PCA.

    Kept for comparison: the mean that is taken off *is* the direction. What is found is how
    pairs differ from one another, which no sign can mend. Raises :class:`SteeringError` for one pair, and where
    all pairs differ by the same vector.
    """
    differences = rows.differences(seed).double()
    centred = differences - differences.mean(0)
    return _towards(_first_component(centred, _rounding(rows), "centred-pca"), rows)


def lat_component(rows: ContrastRows, seed: int = 0) -> Float[Tensor, " d"]:
    """Linear artificial tomography (Zou et al. 2023, "Representation Engineering", arXiv 2310.01405, section 3.1).

    Pairs in random order, their differences brought to length 1 and centred, first principal component. The sign is
    such that positive rows lie higher in most pairs, as the paper's labels fix it (of a tie that of
    the mean difference). Pairs that do not differ have no direction and are left out. Centring does little
    harm here: of n pairs in random order the mean is about ``1 / sqrt(n)`` of the direction.
    Raises :class:`SteeringError` for fewer than two different pairs.
    """
    differences = rows.differences(seed).double()
    lengths = differences.norm(dim=1)
    kept = differences[lengths > 0] / lengths[lengths > 0, None]
    # another stream than that of the pairing
    generator = torch.Generator().manual_seed(seed + 1)
    turned = torch.where(torch.rand(len(kept), generator=generator) < 0.5, -1.0, 1.0)
    signed = kept * turned[:, None].to(kept)
    if not len(kept):
        raise SteeringError("lat found no direction: every pair is equal.")
    rounding = _rounding(rows) / float(lengths[lengths > 0].min())
    found = _first_component(signed - signed.mean(0), rounding, "lat")
    higher = (kept @ found).sign().sum()
    return _towards(found, rows) if higher == 0 else found * higher.sign()


def _rounding(rows: ContrastRows) -> float:
    """Length of the error that single precision may leave in all differences together."""
    x, _ = rows.stacked()
    return _ROUNDING * float(x.norm())


def _first_component(rows: Float[Tensor, "n d"], rounding: float, method: str) -> Float[Tensor, " d"]:
    """Top right singular vector, by the smaller Gram matrix."""
    n, d = rows.shape
    if not float(rows.norm()) > rounding:
        raise SteeringError(
            f"{method} found no direction: {n} pairs leave nothing that varies. Give more pairs that differ in other "
            "ways too, or take 'mean-difference'."
        )
    if n >= d:
        return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    found = rows.T @ torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1]
    return found / found.norm()


def _towards(found: Float[Tensor, " d"], rows: ContrastRows) -> Float[Tensor, " d"]:
    """Turned to the side of the mean difference."""
    return -found if float(found @ rows.mean_difference.double()) < 0 else found
