"""Kernels of JumpReLU on entries."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _jump(pre, latents, thresholds, out, n, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    latent = tl.load(latents + entry, mask=entry < n, other=0)
    value = tl.load(pre + entry, mask=entry < n, other=0).to(tl.float32)
    threshold = tl.load(thresholds + latent, mask=entry < n, other=0).to(tl.float32)
    fired = tl.where(value > threshold, 1.0 if COUNT else value, 0.0)
    tl.store(out + entry, fired.to(out.dtype.element_ty), mask=entry < n)


@triton.jit
def _jump_backward(
    grad,
    pre,
    thresholds,
    order,
    starts,
    of_pre,
    of_thresholds,
    d_sae,
    half_width,
    COUNT: tl.constexpr,
    LATENTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradients of a few latents: their entries' pre-activations (not of a count), and their thresholds."""
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    threshold = tl.load(thresholds + latent, mask=latent < d_sae, other=0).to(tl.float32)
    begin = tl.load(starts + latent, mask=latent < d_sae, other=0)
    length = tl.load(starts + latent + 1, mask=latent < d_sae, other=0) - begin
    total = tl.zeros([LATENTS, LANES], tl.float32)
    for first in range(0, tl.max(length), LANES):
        number = first + tl.arange(0, LANES)[None, :]
        there = number < length[:, None]
        entry = tl.load(order + begin[:, None] + number, mask=there, other=0)
        value = tl.load(pre + entry, mask=there, other=0).to(tl.float32)
        change = tl.load(grad + entry, mask=there, other=0).to(tl.float32)
        # a window of width 2 * half_width
        inside = there & (tl.abs(value - threshold[:, None]) < half_width)
        total += tl.where(inside, change, 0.0)
        if not COUNT:
            passed = tl.where(value > threshold[:, None], change, 0.0)
            tl.store(of_pre + entry, passed.to(of_pre.dtype.element_ty), mask=there)
    slope = -0.5 / half_width if COUNT else -0.5 * threshold / half_width
    of_threshold = slope * tl.sum(total, 1)
    tl.store(of_thresholds + latent, of_threshold.to(of_thresholds.dtype.element_ty), mask=latent < d_sae)


def jump_entries(pre: Tensor, latents: Tensor, thresholds: Tensor, count: bool) -> Tensor:
    """Entries above their threshold, or 1 for each of them; 0 for the others."""
    out = torch.empty_like(pre, memory_format=torch.contiguous_format)
    if len(pre):
        _jump[(triton.cdiv(len(pre), 1024),)](
            pre.contiguous(), latents, thresholds.contiguous(), out, len(pre), COUNT=count, BLOCK=1024
        )
    return out


def jump_gradients(
    grad: Tensor,
    pre: Tensor,
    thresholds: Tensor,
    order: Tensor,
    starts: Tensor,
    bandwidth: float,
    count: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients towards the entries, zero for a count, and towards thresholds."""
    of_pre = torch.zeros_like(pre) if count else torch.empty_like(pre, memory_format=torch.contiguous_format)
    of_thresholds = thresholds.new_empty(len(thresholds))
    d_sae = len(thresholds)
    if d_sae:
        _jump_backward[(triton.cdiv(d_sae, 4),)](
            grad.contiguous(),
            pre.contiguous(),
            thresholds.contiguous(),
            order,
            starts,
            of_pre,
            of_thresholds,
            d_sae,
            bandwidth / 2,
            COUNT=count,
            LATENTS=4,
            LANES=32,
            num_warps=2,
        )
    return of_pre, of_thresholds
