"""Latents near a latent: by direction, and by firing on the same tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.results.feature import LatentNeighbours


def cosine_neighbours(
    W_dec: Float[Tensor, "d_sae ..."], chosen: Int[Tensor, " n"], k: int
) -> list[LatentNeighbours]:
    """The ``k`` latents whose decoder directions have the largest cosine with each chosen one."""
    unit = torch.nn.functional.normalize(W_dec.detach().flatten(1).float(), dim=1)
    found: list[LatentNeighbours] = []
    for part in chosen.split(256):
        found += _largest(unit[part] @ unit.T, part, k)
    return found


def phi_coefficients(
    together: Int[Tensor, "n d_sae"], fired: Int[Tensor, " d_sae"], chosen: Int[Tensor, " n"], n_tokens: int
) -> Float[Tensor, "n d_sae"]:
    """Correlation of "fires" and "fires" over tokens; NaN with a latent that always or never does."""
    both, every = together.double(), fired.double()
    one = every[chosen, None]
    spread = (one * (n_tokens - one) * every * (n_tokens - every)).sqrt()
    return torch.where(spread > 0, (n_tokens * both - one * every) / spread, torch.nan)


def firing_neighbours(
    together: Int[Tensor, "n d_sae"],
    fired: Int[Tensor, " d_sae"],
    chosen: Int[Tensor, " n"],
    n_tokens: int,
    k: int,
) -> list[LatentNeighbours]:
    """The ``k`` latents whose firing correlates most with each chosen one's, above 0."""
    phi = phi_coefficients(together, fired, chosen, n_tokens)
    return _largest(phi.where(phi > 0, torch.nan), chosen, k)


def _largest(values: Float[Tensor, "n d_sae"], chosen: Int[Tensor, " n"], k: int) -> list[LatentNeighbours]:
    values = values.nan_to_num(nan=-torch.inf).clone()
    values[torch.arange(len(chosen), device=chosen.device), chosen] = -torch.inf
    best = values.topk(min(k, values.shape[1]), dim=1)
    return [
        LatentNeighbours(latents[near.isfinite()].cpu(), near[near.isfinite()].float().cpu())
        for near, latents in zip(best.values, best.indices, strict=True)
    ]
