"""Batch-top-k: the k largest pre-activations a row, on average over the batch.

Bussmann, Leask & Nanda 2024, "BatchTopK Sparse Autoencoders", arXiv 2412.06410. In use there is no batch: a
latent fires above one threshold, a running mean of the least value that fired in training.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.config import CoderConfig
from interp.coders.encoders.base import DecoderView, Encoder, StepState
from interp.kernels.coder_step import SparseLatents, kernels_run, select_above, select_top_of_all

_DECAY = 0.99
"""Of the threshold's running mean, a step."""


class BatchTopKEncoder(Encoder):
    """Latents are the ``k * rows`` largest pre-activations of the batch, where these are positive."""

    name = "batch-topk"
    threshold: Tensor

    def __init__(self, d_in: int, config: CoderConfig) -> None:
        super().__init__(d_in, config)
        self.register_buffer("threshold", torch.full((), -1.0))

    def choose(
        self, pre: Float[Tensor, "row d_sae"], decoder: DecoderView, state: StepState
    ) -> SparseLatents:
        if not self.training:
            return select_above(pre, self.threshold.clamp(min=0))
        k = state.k or self.config.k
        assert k is not None
        places = select_top_of_all(pre, min(k * len(pre), pre.numel()))
        values = pre.reshape(-1)[places]
        positive = values > 0
        if kernels_run(values):
            # how many are positive is not waited for: the others' values become 0
            if len(values):
                least = torch.where(positive, values, torch.inf).min()
                self._follow(torch.where(positive.any(), least, self.threshold))
            return SparseLatents.from_flat(values, places, len(pre), self.d_sae)
        values, places = values[positive], places[positive]
        if len(values):
            self._follow(values.min())
        return SparseLatents.from_flat(values, places, len(pre), self.d_sae)

    def _follow(self, least: Float[Tensor, ""]) -> None:
        # below zero: no step was taken yet
        first = self.threshold < 0
        self.threshold.copy_(torch.where(first, least, torch.lerp(least, self.threshold, _DECAY)))

    @torch.no_grad()
    def scale_units(self, inputs: float, outputs: float) -> None:
        super().scale_units(inputs, outputs)
        self.threshold.div_(outputs)
