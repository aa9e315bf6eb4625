"""JumpReLU: a latent fires above a threshold of its own, which is learned.

Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435. The penalty counts latents that fire; neither that
count nor the jump has a gradient towards the threshold, so a window of width ``bandwidth`` around it gives one
(equations 11 and 12). The gradient needs entries just below their threshold too: they are kept with value 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from interp.coders.config import CoderConfig
from interp.coders.encoders.base import DecoderView, Encoder, Fired, StepState
from interp.kernels.coder_step import SparseLatents, take_by_latent


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
            return SparseLatents.from_mask(pre, pre > self.threshold - below)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        thresholds = take_by_latent(self.threshold, entries)
        values: Tensor = _Jump.apply(entries.values, thresholds, self.config.bandwidth)
        return entries.with_values(values)

    def penalty(self, fired: Fired, decoder: DecoderView) -> Float[Tensor, ""]:
        latents = fired.latents
        pre = fired.pre[latents.rows, latents.latents]
        thresholds = take_by_latent(self.threshold, latents)
        counted: Tensor = _Count.apply(pre, thresholds, self.config.bandwidth)
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


def _window(pre: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
    return ((pre - thresholds).abs() < bandwidth / 2).to(pre) / bandwidth


class _Jump(torch.autograd.Function):
    """``pre`` above the threshold, else 0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, thresholds)
        ctx.bandwidth = bandwidth
        return torch.where(pre > thresholds, pre, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, thresholds = ctx.saved_tensors
        of_threshold = -thresholds * _window(pre, thresholds, ctx.bandwidth) * grad
        return torch.where(pre > thresholds, grad, 0), of_threshold, None


class _Count(torch.autograd.Function):
    """1 above the threshold, else 0."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, thresholds: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, thresholds)
        ctx.bandwidth = bandwidth
        return (pre > thresholds).to(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, thresholds = ctx.saved_tensors
        return None, -_window(pre, thresholds, ctx.bandwidth) * grad, None
