"""JumpReLU on entries, known to autograd and ``torch.compile``.

``order`` and ``latent_starts`` are a :class:`~interp.kernels.coder_step.latents.ByLatent`'s; the gradient sorts for
itself where they are not given.
"""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.coder_step.grouping import group_entries
from interp.kernels.coder_step.jump.triton import jump_entries, jump_gradients


@torch.library.custom_op("interp::coder_step_jump", mutates_args=())
def jump(
    pre: Tensor,
    latents: Tensor,
    thresholds: Tensor,
    bandwidth: float,
    count: bool,
    order: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    """``pre`` [entry] above the thresholds [d_sae], else 0; with ``count`` 1 for each that is above."""
    return jump_entries(pre, latents, thresholds, count)


@jump.register_fake
def _(
    pre: Tensor,
    latents: Tensor,
    thresholds: Tensor,
    bandwidth: float,
    count: bool,
    order: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    return pre.new_empty(pre.shape)


@torch.library.custom_op("interp::coder_step_jump_backward", mutates_args=())
def jump_backward(
    grad: Tensor,
    pre: Tensor,
    thresholds: Tensor,
    order: Tensor,
    latent_starts: Tensor,
    bandwidth: float,
    count: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients towards ``pre`` and thresholds; none of its own."""
    return jump_gradients(grad, pre, thresholds, order, latent_starts, bandwidth, count)


@jump_backward.register_fake
def _(
    grad: Tensor,
    pre: Tensor,
    thresholds: Tensor,
    order: Tensor,
    latent_starts: Tensor,
    bandwidth: float,
    count: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(pre), torch.empty_like(thresholds)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pre, latents, thresholds, ctx.bandwidth, ctx.count, order, latent_starts = inputs
    ctx.save_for_backward(pre, latents, thresholds, order, latent_starts)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    pre, latents, thresholds, order, starts = ctx.saved_tensors
    if order is None or starts is None:
        order, starts = group_entries(latents, thresholds.shape[0])
    of_pre, of_thresholds = jump_backward(grad, pre, thresholds, order, starts, ctx.bandwidth, ctx.count)
    # a count has no gradient towards what it counts
    return None if ctx.count else of_pre, None, of_thresholds, None, None, None, None


jump.register_autograd(_gradients, setup_context=_keep)
