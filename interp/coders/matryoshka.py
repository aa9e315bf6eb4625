"""Matryoshka coders: nested dictionaries, each of which rebuilds the input by itself.

Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", arXiv 2503.17547:
latents fire as in batch-top-k, and the loss is taken with the first ``widths[0]`` latents only, with the first
``widths[1]``, and so on. The paper sums these losses; here it is their mean, so that the size does not
depend on their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.encoders import Fired
from interp.kernels.coder_step import SparseLatents, kernels_run, sparse_decode


class MatryoshkaCoder(Coder):
    """A batch-top-k coder whose early latents are the general ones."""

    def _reconstruction(
        self, target: Tensor, out: Tensor, fired: Sequence[Fired], x: Tensor
    ) -> Float[Tensor, ""]:
        losses = []
        rebuilt: Tensor = self.b_dec
        for added in self._parts(fired[0].latents):
            rebuilt = rebuilt + added
            losses.append((target - rebuilt).square().sum(1).mean())
        return torch.stack(losses).mean()

    def _parts(self, latents: SparseLatents) -> Iterable[Float[Tensor, "row d_out"]]:
        """What each width adds to the one before it."""
        widths = self.config.nested_widths
        if kernels_run(latents.values, self.W_dec) and latents.sparse_pays:
            # as rows of their own, so that all of them are one sum, and one gradient
            split = latents.split(widths)
            yield from sparse_decode(split, self.W_dec).unflatten(0, (-1, len(widths))).unbind(1)
            return
        begin = 0
        for end in widths:
            inside = (latents.latents >= begin) & (latents.latents < end)
            yield sparse_decode(latents.select(inside), self.W_dec)
            begin = end
