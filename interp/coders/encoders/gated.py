"""Gated: one map says which latents fire, a rescaled copy of it how strongly.

Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", arXiv 2404.16014. The
L1 penalty acts on the gates only, so it does not shrink latents; gates learn by a second loss, in which they
rebuild the input through a decoder that gets no gradient from it (equation 8).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.coders.config import CoderConfig
from interp.coders.encoders.base import DecoderView, Encoder, Fired, StepState, l1_penalty
from interp.kernels.coder_step import SparseLatents, attach_encoder, select_above, take_by_latent


class GatedEncoder(Encoder):
    """``b_enc`` is the gates' bias, ``b_mag`` the magnitudes'; ``r_mag`` is the log of the rescaling."""

    name = "gated"
    default_sparsity = 0.5

    def __init__(self, d_in: int, config: CoderConfig) -> None:
        super().__init__(d_in, config)
        self.r_mag = nn.Parameter(torch.zeros(config.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(config.d_sae))

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        return select_above(pre, 0.0)

    def fire(self, x: Float[Tensor, "row d_in"], decoder: DecoderView, state: StepState) -> Fired:
        pre = self.pre_activations(x)
        chosen = self.choose(pre, decoder, state)
        product = attach_encoder(
            chosen.with_values(chosen.values - self.b_enc.detach()[chosen.latents]), x, self.W_enc
        )
        gates = product.with_values(product.values + take_by_latent(self.b_enc, chosen))
        scale, shift = take_by_latent(self.r_mag.exp(), chosen), take_by_latent(self.b_mag, chosen)
        latents = product.with_values((product.values * scale + shift).relu())
        return Fired(latents, pre, gates=gates)

    def penalty(self, fired: Fired, decoder: DecoderView) -> Float[Tensor, ""]:
        assert fired.gates is not None
        return l1_penalty(fired.gates, decoder.norms().detach())

    @torch.no_grad()
    def begin_latents(self, places: Int[Tensor, " latent"]) -> None:
        super().begin_latents(places)
        self.r_mag[places] = 0
        self.b_mag[places] = 0

    @torch.no_grad()
    def scale_units(self, inputs: float, outputs: float) -> None:
        super().scale_units(inputs, outputs)
        self.b_mag.div_(outputs)

    @torch.no_grad()
    def scale_latents(self, factors: Float[Tensor, " d_sae"]) -> None:
        super().scale_latents(factors)
        self.b_mag.mul_(factors)
