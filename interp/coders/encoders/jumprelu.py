"""JumpReLU: a latent fires above a threshold of its own, which is learned.

Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435. The penalty counts latents that fire; neither that
count nor the jump has a gradient towards the threshold, so a window of width ``bandwidth`` around it gives one
(equations 11 and 12). The gradient needs entries just below their threshold too: they are kept with value 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.coders.config import CoderConfig
from interp.coders.encoders.base import DecoderView, Encoder, Fired, StepState
from interp.kernels.coder_step import SparseLatents, count_above, jump_relu, select_above


class JumpReLUEncoder(Encoder):
    """Latents are the pre-activations above their threshold."""

    name = "jumprelu"
    default_sparsity = 0.5

    def __init__(self, d_in: int, config: CoderConfig) -> None:
        super().__init__(d_in, config)
        self.log_threshold = nn.Parameter(torch.full((config.d_sae,), math.log(config.initial_threshold)))

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """Above which each latent fires."""
        return self.log_threshold.exp()

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        with torch.no_grad():
            below = self.config.bandwidth / 2 if self.training else 0.0
            return select_above(pre, self.threshold - below)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        return entries.with_values(jump_relu(entries, self.threshold, self.config.bandwidth))

    def penalty(self, fired: Fired, decoder: DecoderView) -> Float[Tensor, ""]:
        latents = fired.latents
        pre = fired.pre[latents.rows, latents.latents]
        counted = count_above(latents, pre, self.threshold, self.config.bandwidth)
        return counted.sum() / max(latents.n_rows, 1)

    @torch.no_grad()
    def begin_latents(self, places: Int[Tensor, " latent"]) -> None:
        super().begin_latents(places)
        self.log_threshold[places] = math.log(self.config.initial_threshold)

    @torch.no_grad()
    def scale_units(self, inputs: float, outputs: float) -> None:
        super().scale_units(inputs, outputs)
        self.log_threshold.sub_(math.log(outputs))

    @torch.no_grad()
    def scale_latents(self, factors: Float[Tensor, " d_sae"]) -> None:
        super().scale_latents(factors)
        self.log_threshold.add_(factors.log())
