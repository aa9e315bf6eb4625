"""Top-k: the k largest pre-activations of a row fire.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.coders.encoders.base import DecoderView, Encoder, Fired, StepState
from interp.kernels.coder_step import SparseLatents, attach_encoder, select_top

WIDER = 4
"""How many times k the second loss of ``multi_k`` has."""


class TopKEncoder(Encoder):
    """Latents are the k largest pre-activations, where these are positive."""

    name = "topk"

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        return SparseLatents.from_top(*select_top(pre, self.k_now(state)), self.d_sae)

    def k_now(self, state: StepState) -> int:
        """k of this step, from its schedule."""
        k = state.k or self.config.k
        assert k is not None
        return min(k, self.d_sae)

    def fire(self, x: Float[Tensor, "row d_in"], decoder: DecoderView, state: StepState) -> Fired:
        if not (self.config.multi_k and self.training):
            return super().fire(x, decoder, state)
        pre = self.pre_activations(x)
        k = self.k_now(state)
        values, places = select_top(pre, min(WIDER * k, self.d_sae))
        wide = SparseLatents.from_top(values, places, self.d_sae)
        entries = attach_encoder(wide, x, self.W_enc, self.b_enc)
        wider = self.activate(entries)
        least = select_top(values, k)[0].min(dim=1).values
        kept = values >= least[:, None]
        return Fired(wider.keep(kept.reshape(-1)), pre, wider=wider)
