"""Sums over entries, known to autograd and ``torch.compile``.

``order``, ``sorted_rows`` and ``latent_starts`` are a :class:`~interp.kernels.coder_step.latents.ByLatent`; where
a gradient needs them and they were not given, the gradient sorts for itself.
"""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.coder_step.grouping import group_entries, list_rows
from interp.kernels.coder_step.sums.triton import add_latents, multiply_entries, sum_latents, sum_rows


@torch.library.custom_op("interp::coder_step_dot", mutates_args=())
def dot(latents: Tensor, starts: Tensor, of_rows: Tensor, of_latents: Tensor) -> Tensor:
    """``of_rows[row] . of_latents[latent]`` of every entry, in fp32; no gradient."""
    return multiply_entries(latents, starts, of_rows, of_latents)


@dot.register_fake
def _(latents: Tensor, starts: Tensor, of_rows: Tensor, of_latents: Tensor) -> Tensor:
    return of_rows.new_empty(latents.shape[0], dtype=torch.float32)


@torch.library.custom_op("interp::coder_step_sum_by_latent", mutates_args=())
def sum_by_latent(
    weights: Tensor,
    latents: Tensor,
    order: Tensor,
    sorted_rows: Tensor,
    latent_starts: Tensor,
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sums [d_sae, d] of weighted row vectors, and [d_sae] of weights; no gradient."""
    return sum_latents(weights, latents, order, sorted_rows, latent_starts, vectors)


@sum_by_latent.register_fake
def _(
    weights: Tensor,
    latents: Tensor,
    order: Tensor,
    sorted_rows: Tensor,
    latent_starts: Tensor,
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    d_sae = latent_starts.shape[0] - 1
    return vectors.new_empty(d_sae, vectors.shape[1]), weights.new_empty(d_sae)


@torch.library.custom_op("interp::coder_step_add_by_latent", mutates_args=())
def add_by_latent(weights: Tensor, order: Tensor, latent_starts: Tensor) -> Tensor:
    """Sums [d_sae] of weights; no gradient."""
    return add_latents(weights, order, latent_starts)


@add_by_latent.register_fake
def _(weights: Tensor, order: Tensor, latent_starts: Tensor) -> Tensor:
    return weights.new_empty(latent_starts.shape[0] - 1)


@torch.library.custom_op("interp::coder_step_sum_by_row", mutates_args=())
def sum_by_row(
    weights: Tensor,
    latents: Tensor,
    starts: Tensor,
    vectors: Tensor,
    order: Tensor | None,
    sorted_rows: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    """Sums [row, d] of weighted latent vectors, with gradients towards weights and vectors."""
    return sum_rows(weights, latents, starts, vectors)


@sum_by_row.register_fake
def _(
    weights: Tensor,
    latents: Tensor,
    starts: Tensor,
    vectors: Tensor,
    order: Tensor | None,
    sorted_rows: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    return vectors.new_empty(starts.shape[0] - 1, vectors.shape[1])


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _sum_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, latents, starts, vectors, *groups = ctx.saved_tensors
    of_weights = of_vectors = None
    if ctx.needs_input_grad[0]:
        of_weights = dot(latents, starts, grad, vectors).to(weights.dtype)
    if ctx.needs_input_grad[3]:
        order, rows, latent_starts = _groups(latents, starts, vectors.shape[0], groups)
        of_vectors = sum_by_latent(weights, latents, order, rows, latent_starts, grad)[0].to(vectors.dtype)
    return of_weights, None, None, of_vectors, None, None, None


sum_by_row.register_autograd(_sum_gradients, setup_context=_keep_sum)


@torch.library.custom_op("interp::coder_step_encode", mutates_args=())
def encode(
    values: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    latents: Tensor,
    starts: Tensor,
    order: Tensor | None,
    sorted_rows: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    """``values`` [entry], which are ``x[row] . W_enc[latent] + b_enc[latent]``, with that gradient."""
    return values.clone()


@encode.register_fake
def _(
    values: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    latents: Tensor,
    starts: Tensor,
    order: Tensor | None,
    sorted_rows: Tensor | None,
    latent_starts: Tensor | None,
) -> Tensor:
    return torch.empty_like(values)


def _keep_encoded(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, x, W_enc, b_enc, *structure = inputs
    ctx.bias_dtype = None if b_enc is None else b_enc.dtype
    ctx.save_for_backward(x, W_enc, *structure)


def _encode_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, W_enc, latents, starts, *groups = ctx.saved_tensors
    _, wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
    of_x = of_weight = of_bias = None
    if wants_x:
        of_x = sum_by_row(grad, latents, starts, W_enc, None, None, None).to(x.dtype)
    if wants_weight or wants_bias:
        order, rows, latent_starts = _groups(latents, starts, W_enc.shape[0], groups)
        if wants_weight:
            of_weight, of_bias = sum_by_latent(grad, latents, order, rows, latent_starts, x)
            of_weight = of_weight.to(W_enc.dtype)
        else:
            of_bias = add_by_latent(grad, order, latent_starts)
        of_bias = of_bias.to(ctx.bias_dtype) if wants_bias else None
    return None, of_x, of_weight, of_bias, None, None, None, None, None


encode.register_autograd(_encode_gradients, setup_context=_keep_encoded)


def _groups(
    latents: Tensor, starts: Tensor, d_sae: int, given: list[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    order, rows, latent_starts = given
    if order is not None and rows is not None and latent_starts is not None:
        return order, rows, latent_starts
    order, latent_starts = group_entries(latents, d_sae)
    return order, list_rows(starts, latents.shape[0])[order], latent_starts
