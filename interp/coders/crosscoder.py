"""Crosscoders: one set of latents reads and rebuilds several sites together.

Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing", Transformer Circuits
Thread. The sparsity penalty weighs a latent with the sum of its decoder rows' lengths over sites.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.coders.coder import Coder


class Crosscoder(Coder):
    """``W_enc`` and ``W_dec`` are [d_sae, site * d]; x and output are [..., site, d].

    With unit decoders it is a latent's rows of all sites together that have length 1.
    """

    def decoder_norms(self, number: int = 0) -> Float[Tensor, " d_sae"]:
        return self.norms_by_site().sum(1)

    def norms_by_site(self) -> Float[Tensor, "d_sae site"]:
        """Length of every latent's decoder row at every site: where a latent lives."""
        return self.W_dec.unflatten(1, (self.shape.n_outputs, self.shape.d_out)).norm(dim=2)
