"""Discrete coders: a small ReLU coder read by which of its latents is largest.

O'Neill & Bui 2024, "Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language Models",
arXiv 2405.12522: about 200 latents, L1, the decoder's bias taken off the input; a row's code is its largest
latent.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.coders.coder import Coder


class DiscreteCoder(Coder):
    """A standard coder with codes."""

    def codes(self, x: Float[Tensor, "*rest d_in"]) -> Int[Tensor, "*rest"]:
        """The latent that fires most, the first of equal ones; ``d_sae`` where none fires."""
        strongest, code = self.encode(x).max(dim=-1)
        return torch.where(strongest > 0, code, self.d_sae)
