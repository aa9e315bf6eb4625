"""Geometry of a dictionary: how near its directions are, how many dimensions they fill, what fires together."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.coders.ground_truth.dictionary import Dictionary, unit_rows
from interp.errors import CoderError
from interp.results.feature_geometry import FeatureGeometry
from interp.results.provenance import Provenance

_ROWS = 2048
"""Latents compared with all others at once."""


def measure_geometry(
    dictionary: Dictionary,
    x: Float[Tensor, "row *site d_in"] | None = None,
    *,
    top: int = 40,
    duplicate_cosine: float = 0.95,
    seed: int = 0,
    name: str | None = None,
) -> FeatureGeometry:
    """Measure a dictionary's directions, and with activations ``x`` which latents fire together.

    Directions are rows of ``W_dec``, scaled to length 1 (a row of zeros stays, at cosine 0 with all).
    Co-activation is of the ``top`` latents that fire most. Chance is as many random directions, drawn by
    ``seed``. Raises :class:`CoderError` for fewer than two latents, or no rows.
    """
    directions = unit_rows(dictionary.W_dec.detach().cpu().float().flatten(1))
    n, d = directions.shape
    if n < 2:
        raise CoderError(f"geometry is of at least two latents; got {n}.")
    random = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    cosines, nearest = _nearest(directions)
    energy = torch.linalg.svdvals(directions.double()).square()
    firing, fired = None, torch.zeros(0, 0, dtype=torch.bool)
    chosen = torch.zeros(0, dtype=torch.long)
    if x is not None:
        if not len(x):
            raise CoderError("activations have no rows; give some, or none at all.")
        with torch.no_grad():
            fired = dictionary.encode(x).cpu().reshape(-1, n) > 0
        firing = fired.float().mean(0)
        order = firing.argsort(descending=True, stable=True)
        chosen = order[: min(top, int((firing > 0).sum()))]
    phi, jaccard = _coactivation(fired[:, chosen])
    return FeatureGeometry(
        nearest_cosine=cosines,
        nearest=nearest,
        random_cosine=_nearest(unit_rows(random))[0].sort().values,
        spectrum=(energy / energy.sum().clamp(min=1e-300)).float(),
        firing=firing,
        top=chosen,
        phi=phi,
        jaccard=jaccard,
        duplicate_cosine=duplicate_cosine,
        provenance=Provenance(
            model=name or type(dictionary).__name__, n_prompts=None if x is None else len(x), seed=seed
        ),
    )


def _nearest(unit: Float[Tensor, "latent d"]) -> tuple[Tensor, Tensor]:
    """Largest cosine with another row, and which; never the whole table at once."""
    found = []
    for start in range(0, len(unit), _ROWS):
        part = unit[start : start + _ROWS] @ unit.T
        own = torch.arange(len(part))
        part[own, own + start] = -float("inf")
        found.append(part.max(1))
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def _coactivation(fired: Bool[Tensor, "row top"]) -> tuple[Tensor, Tensor]:
    """Phi and Jaccard of every two columns."""
    counted = fired.double()
    n, both = len(fired), counted.T @ counted
    alone = counted.sum(0)
    spread = (alone * (n - alone)).sqrt()
    missing = both.new_tensor(float("nan"))
    sizes = spread[:, None] * spread
    phi = torch.where(sizes > 0, (n * both - alone[:, None] * alone) / sizes, missing)
    either = alone[:, None] + alone - both
    return phi.float(), torch.where(either > 0, both / either, missing).float()
