"""ReLU with an L1 penalty.

Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, arXiv 2309.08600. The penalty weighs a
latent with the length of its decoder row (Templeton et al. 2024), so that it cannot be escaped by long rows.
Known shortcoming: the penalty shrinks latents, so reconstructions come out too small.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.coders.encoders.base import DecoderView, Encoder, Fired, StepState, l1_penalty
from interp.kernels.coder_step import SparseLatents, select_above


class StandardEncoder(Encoder):
    """Latents are the positive pre-activations."""

    name = "standard"
    default_sparsity = 0.5

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        return select_above(pre, 0.0)

    def penalty(self, fired: Fired, decoder: DecoderView) -> Float[Tensor, ""]:
        return l1_penalty(fired.latents, decoder.norms())
