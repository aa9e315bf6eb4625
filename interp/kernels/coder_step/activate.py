"""JumpReLU on entries: the jump, and the count of those above their threshold.

Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435. Neither has a gradient towards the threshold, so a window
of width ``bandwidth`` around it gives one (equations 11 and 12).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.kernels.coder_step.encode import groups_for, take_by_latent
from interp.kernels.coder_step.latents import SparseLatents, kernels_run


def jump_relu(
    entries: SparseLatents, thresholds: Float[Tensor, " d_sae"], bandwidth: float
) -> Float[Tensor, " entry"]:
    """The entries' values above their latent's threshold, else 0; with gradients towards both."""
    if kernels_run(entries.values, thresholds):
        return _run(entries, entries.values, thresholds, bandwidth, count=False)
    values: Tensor = _Jump.apply(entries.values, take_by_latent(thresholds, entries), bandwidth)
    return values


def count_above(
    entries: SparseLatents,
    pre: Float[Tensor, " entry"],
    thresholds: Float[Tensor, " d_sae"],
    bandwidth: float,
) -> Float[Tensor, " entry"]:
    """1 for entries whose ``pre`` is above their latent's threshold, else 0; a gradient towards thresholds only."""
    if kernels_run(pre, thresholds):
        return _run(entries, pre, thresholds, bandwidth, count=True)
    counted: Tensor = _Count.apply(pre, take_by_latent(thresholds, entries), bandwidth)
    return counted


def _run(entries: SparseLatents, pre: Tensor, thresholds: Tensor, bandwidth: float, count: bool) -> Tensor:
    from interp.kernels.coder_step.jump.ops import jump

    order, _, starts = groups_for(entries, thresholds)
    found: Tensor = jump(pre, entries.latents, thresholds, bandwidth, count, order, starts)
    return found


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
