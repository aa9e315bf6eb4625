"""The decoder on sparse latents: a weighted sum of a few rows, and gradients of the same cost."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.kernels.coder_step.encode import groups_for, sum_by_latent, sum_by_row
from interp.kernels.coder_step.latents import SparseLatents, kernels_run


def sparse_decode(latents: SparseLatents, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
    """``latents.to_dense() @ W_dec``, with gradients towards the values and ``W_dec``.

    The gradient of ``W_dec`` uses the sort that :attr:`SparseLatents.by_latent` keeps, which the encoder's
    gradient uses too; sums are taken in one fixed order, so that the same numbers come out each time.
    """
    if not latents.sparse_pays:
        return latents.to_dense() @ W_dec
    if kernels_run(latents.values, W_dec):
        from interp.kernels.coder_step.sums.ops import sum_by_row as sum_rows

        groups = groups_for(latents, W_dec)
        found: Tensor = sum_rows(latents.values, latents.latents, latents.starts, W_dec, *groups)
        return found
    # towards the values by the operation's own gradient, towards the weights by the shared sort
    out = sum_by_row(latents, latents.values, W_dec.detach())
    if not (torch.is_grad_enabled() and W_dec.requires_grad):
        return out
    decoded: Tensor = _WeightGradient.apply(out, W_dec, latents.with_values(latents.values.detach()))
    return decoded


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, W_dec: Tensor, latents: SparseLatents) -> Tensor:
        ctx.latents = latents
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = None
        if ctx.needs_input_grad[1]:
            weight = sum_by_latent(ctx.latents, ctx.latents.values, grad.contiguous())
        return grad, weight, None
