"""Matryoshka coders: nested dictionaries, each of which rebuilds the input by itself.

Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", arXiv 2503.17547:
latents fire as in batch-top-k, and the loss is taken with the first ``widths[0]`` latents only, with the first
``widths[1]``, and so on. The paper sums these losses; here it is their mean, so that the size does not
depend on their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.encoders import Fired
from interp.kernels.coder_step import sparse_decode


class MatryoshkaCoder(Coder):
    """A batch-top-k coder whose early latents are the general ones."""

    def _reconstruction(
        self, target: Tensor, out: Tensor, fired: Sequence[Fired], x: Tensor
    ) -> Float[Tensor, ""]:
        (part,) = fired
        begin, losses = 0, []
        rebuilt: Tensor = self.b_dec
        for end in self.config.nested_widths:
            inside = (part.latents.latents >= begin) & (part.latents.latents < end)
            rebuilt = rebuilt + sparse_decode(part.latents.select(inside), self.W_dec)
            losses.append((target - rebuilt).square().sum(1).mean())
            begin = end
        return torch.stack(losses).mean()
