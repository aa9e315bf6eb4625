"""Directions for planted features: random, orthogonal, or spread as evenly as may be.

Even spread by alternating projection (Tropp, Dhillon, Heath & Strohmer 2005, "Designing structured tight
frames via an alternating projection method"): of the cosines between all pairs, clip those that are too
large, take the nearest matrix of the right rank, and again.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CoderError, unknown_name

DirectionKind = Literal["low-coherence", "random", "orthogonal"]
DIRECTION_KINDS = ("low-coherence", "random", "orthogonal")
_ROUNDS = 60
_SLACK = 1.1
"""The bound itself is reached by few sizes; somewhat above it the projections converge."""


def draw_directions(
    n_features: int, d_in: int, kind: DirectionKind, generator: torch.Generator
) -> Float[Tensor, "feature d_in"]:
    """Unit directions. ``"low-coherence"`` ones are orthogonal where there is room for that.

    Raises :class:`CoderError` for an unknown kind, and for more orthogonal directions than dimensions.
    """
    if kind not in DIRECTION_KINDS:
        raise CoderError(unknown_name("kind of directions", kind, DIRECTION_KINDS))
    drawn = torch.randn(n_features, d_in, generator=generator, dtype=torch.float64)
    if kind == "orthogonal" and n_features > d_in:
        raise CoderError(
            f"{n_features} directions cannot be orthogonal in {d_in} dimensions; take low-coherence ones."
        )
    if kind != "random" and n_features <= d_in:
        return torch.linalg.qr(drawn.T).Q.T.float().contiguous()
    unit = drawn / drawn.norm(dim=1, keepdim=True)
    return (_spread(unit) if kind == "low-coherence" else unit).float()


def welch_bound(n_features: int, d_in: int) -> float:
    """The least that the largest |cosine| between so many directions can be (Welch 1974).

    >>> welch_bound(3, 2)
    0.5
    """
    if n_features <= d_in:
        return 0.0
    return math.sqrt((n_features - d_in) / (d_in * (n_features - 1)))


def _spread(unit: Float[Tensor, "feature d_in"]) -> Float[Tensor, "feature d_in"]:
    n, d = unit.shape
    limit = _SLACK * welch_bound(n, d)
    for _ in range(_ROUNDS):
        gram = (unit @ unit.T).clamp(-limit, limit).fill_diagonal_(1.0)
        values, vectors = torch.linalg.eigh(gram)
        unit = vectors[:, -d:] * values[-d:].clamp(min=0).sqrt()
        unit = unit / unit.norm(dim=1, keepdim=True)
    return unit
