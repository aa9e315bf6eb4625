"""The first pass over the data: how often and how strongly every latent fires."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.dashboard.prompts import Encoder, PromptActivations, encode_rows
from interp.errors import CoderError

_PER_OCTAVE = 16
_OCTAVES = 48
"""Activations from 2^-24 to 2^24 are told apart; others are counted in the first or the last bin."""


@dataclass(frozen=True, eq=False)
class Survey:
    """Every latent over all tokens."""

    fired: Int[Tensor, " d_sae"]
    total: Float[Tensor, " d_sae"]
    """Sum of activations."""
    maximum: Float[Tensor, " d_sae"]
    l0_counts: Int[Tensor, " l0"]
    bins: Int[Tensor, "d_sae bin"]
    """Firings by the logarithm of the activation."""
    n_tokens: int
    n_prompts: int

    @property
    def alive(self) -> Int[Tensor, " alive"]:
        """Latents that fired."""
        return torch.nonzero(self.fired).flatten()

    def quantiles(self, latent: int, shares: Sequence[float]) -> list[float]:
        """Activations below which these shares of the latent's firings lie, to within a bin of 4 %."""
        counts = self.bins[latent].double()
        reached = counts.cumsum(0)
        found = []
        for share in shares:
            wanted = share * float(reached[-1])
            place = int(torch.searchsorted(reached, wanted))
            before = float(reached[place] - counts[place])
            within = (wanted - before) / max(float(counts[place]), 1.0)
            low = 2.0 ** (place / _PER_OCTAVE - _OCTAVES / 2)
            found.append(min(low * 2.0 ** (within / _PER_OCTAVE), float(self.maximum[latent])))
        return found


def survey_latents(coder: Encoder, batches: Iterable[PromptActivations]) -> Survey:
    """Count over all batches. Raises :class:`CoderError` where they hold no token."""
    n, device = coder.d_sae, coder.W_dec.device
    fired = torch.zeros(n, dtype=torch.long, device=device)
    total = torch.zeros(n, dtype=torch.float64, device=device)
    maximum = torch.zeros(n, device=device)
    l0_counts = torch.zeros(n + 1, dtype=torch.long, device=device)
    bins = torch.zeros(n, _PER_OCTAVE * _OCTAVES, dtype=torch.int32, device=device)
    n_tokens = n_prompts = 0
    for batch in batches:
        latents = encode_rows(coder, batch.rows)
        row, latent = torch.nonzero(latents > 0, as_tuple=True)
        values = latents[row, latent]
        fired += torch.bincount(latent, minlength=n)
        total += latents.clamp(min=0).sum(0, dtype=torch.float64)
        if len(latents):
            maximum = torch.maximum(maximum, latents.float().amax(0))
        l0_counts += torch.bincount(torch.bincount(row, minlength=len(latents)), minlength=n + 1)
        place = ((values.double().log2() + _OCTAVES / 2) * _PER_OCTAVE).floor().long()
        flat = latent * bins.shape[1] + place.clamp(0, bins.shape[1] - 1)
        bins.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        n_tokens += len(latents)
        n_prompts += len(batch.tokens)
    if n_tokens == 0:
        raise CoderError(f"there is no token to look at in {n_prompts} prompts; give more, or longer ones.")
    most = int(l0_counts.nonzero().max())
    return Survey(fired, total, maximum, l0_counts[: most + 1], bins, n_tokens, n_prompts)
