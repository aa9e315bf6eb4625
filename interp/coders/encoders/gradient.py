"""Gradient SAE: of a row's latents those fire that move the model's loss most.

Olmo et al. 2024, "Features that Make a Difference", arXiv 2411.10397: the k latents with the largest
``activation * |W_dec . dL/dx|`` are kept; kept values stay the activations. To weigh all latents would be a
second dense product, so only the ``preselect * k`` of largest activation are weighed
(:func:`measure_preselection` says how many of the right ones that finds). Without gradients, as in use,
the k largest activations fire.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.coders.encoders.base import DecoderView, StepState
from interp.coders.encoders.topk import TopKEncoder
from interp.kernels.coder_step import SparseLatents, dot_entries, select_top


class GradientEncoder(TopKEncoder):
    """Latents are the k positive pre-activations with the largest first-order effect on the loss."""

    name = "gradient"

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        if decoder.grad is None:
            return super().choose(pre, decoder, state)
        k, n = self.k_now(state), self.d_sae
        if self.config.preselect:
            n = min(self.config.preselect * k, n)
        values, places = select_top(pre, n)
        candidates = SparseLatents.from_top(values, places, self.d_sae)
        effect = dot_entries(candidates, decoder.grad, decoder.W_dec).abs().view_as(values)
        _, best = select_top(values.relu() * effect, k)
        return SparseLatents.from_top(values.gather(1, best), places.gather(1, best), self.d_sae)


def measure_preselection(
    pre: Float[Tensor, "row d_sae"],
    grad: Float[Tensor, "row d_out"],
    W_dec: Float[Tensor, "d_sae d_out"],
    k: int,
    preselect: int,
) -> float:
    """Share of the k latents of largest effect that are among the ``preselect * k`` of largest activation."""
    effect = pre.relu() * (grad @ W_dec.T).abs()
    _, wanted = select_top(effect, k)
    _, found = select_top(pre, min(preselect * k, pre.shape[1]))
    here = pre.new_zeros(pre.shape).scatter(1, found, 1.0)
    return float(here.gather(1, wanted).mean())
