"""The dictionary that semi-NMF gives: directions of few neurons, and latents that are never negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import CoderError
from interp.kernels.coder_step import SparseLatents

_SWEEPS = 500
_SETTLED = 1e-6
"""A sweep that moves no latent by more than this share of its row's largest is the last."""


class SemiNMF(nn.Module):
    """Features of MLP activations: ``x ~ encode(x) @ W_dec``, latents not negative. No biases.

    Made by :func:`interp.fit_semi_nmf`. Latents are the non-negative least squares of the row, found by
    coordinate descent; no gradient passes through them.
    """

    is_transcoder = False

    def __init__(
        self,
        W_dec: Float[Tensor, "d_sae d_in"],
        *,
        sites: Sequence[str] = (),
        losses: Sequence[float] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(W_dec.detach().clone())
        """[d_sae, d_in]: the neurons of each feature; rows of length 1, or 0 for a feature that is nowhere."""
        self.sites = tuple(sites)
        self.losses = tuple(losses)
        """Share of ``|A|^2`` that was left after every iteration of the fit."""
        self.metadata: dict[str, Any] = dict(metadata or {})

    @property
    def target_sites(self) -> tuple[str, ...]:
        """What it rebuilds: what it reads."""
        return self.sites

    @property
    def d_sae(self) -> int:
        """Features."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        """Neurons."""
        return self.W_dec.shape[1]

    @property
    def d_out(self) -> int:
        """Neurons."""
        return self.d_in

    def extra_repr(self) -> str:
        return f"semi-NMF, {self.d_in} neurons, {self.d_sae} features, {', '.join(self.sites) or 'no site'}"

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_sae"]:
        """Latents that bring ``latents @ W_dec`` nearest to ``x``, none negative.

        Raises :class:`CoderError` for another width than the coder's.
        """
        if x.shape[-1] != self.d_in:
            raise CoderError(f"this coder reads activations [..., {self.d_in}]; got shape {list(x.shape)}.")
        gram = self.W_dec @ self.W_dec.T
        product = x.reshape(-1, self.d_in) @ self.W_dec.T
        # latents first: a sweep reads and writes one contiguous row a latent
        found = torch.zeros_like(product.T, memory_format=torch.contiguous_format)
        product = product.T.contiguous()
        live = [latent for latent, size in enumerate(gram.diagonal().tolist()) if size > 0]
        for _ in range(_SWEEPS):
            before = found.clone()
            for latent in live:
                missing = product[latent] - gram[latent] @ found
                found[latent].add_(missing / gram[latent, latent]).clamp_(min=0)
            moved, largest = (found - before).abs().amax(0), found.amax(0)
            if bool((moved <= _SETTLED * largest).all()):
                break
        return found.T.reshape(*x.shape[:-1], self.d_sae)

    def latents(self, x: Float[Tensor, "*rest d_in"]) -> SparseLatents:
        """The latents above 0 of every row, all leading axes flattened."""
        return SparseLatents.from_dense(self.encode(x).reshape(-1, self.d_sae))

    def decode(
        self, latents: Float[Tensor, "*rest d_sae"] | SparseLatents, x: Tensor | None = None
    ) -> Float[Tensor, "*rest d_in"]:
        """Activations from latents; ``x`` is not needed."""
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return dense @ self.W_dec

    def forward(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_in"]:
        """The reconstruction of ``x``."""
        return self.decode(self.encode(x))

    def save(self, folder: str | Path) -> Path:
        """Write it to a folder; :func:`interp.load_coder` reads it again."""
        from interp.coders.files import save_coder

        return save_coder(self, folder)
