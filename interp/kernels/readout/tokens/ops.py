"""Token logits as an operation of PyTorch: autograd, fake tensors, ``torch.compile``."""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.norm import Norm, normalise
from interp.kernels.readout.tokens.triton import (
    LAYERNORM,
    NONE,
    RMSNORM_PLUS_ONE,
    launch_pull_back,
    launch_read,
    launch_sum_by_token,
)


@torch.library.custom_op("interp::readout_tokens", mutates_args=())
def read_tokens_op(
    resid: Tensor,
    W_U: Tensor,
    tokens: Tensor,
    prompts: Tensor | None,
    b_U: Tensor | None,
    kind: int,
    eps: float,
    gain: Tensor | None,
    shift: Tensor | None,
    cap: float,
    wide: bool,
) -> Tensor:
    """Logits [row, k, c], in fp32 if ``wide``; ``kind`` as in ``triton``, ``cap`` 0 is none."""
    out = _empty_logits(resid, tokens, wide)
    launch_read(resid, W_U, tokens, prompts, b_U, kind, eps, gain, shift, cap, out)
    return out


@read_tokens_op.register_fake
def _(
    resid: Tensor,
    W_U: Tensor,
    tokens: Tensor,
    prompts: Tensor | None,
    b_U: Tensor | None,
    kind: int,
    eps: float,
    gain: Tensor | None,
    shift: Tensor | None,
    cap: float,
    wide: bool,
) -> Tensor:
    return _empty_logits(resid, tokens, wide)


@torch.library.custom_op("interp::readout_tokens_backward", mutates_args=())
def read_tokens_backward_op(
    grad: Tensor,
    resid: Tensor,
    W_U: Tensor,
    tokens: Tensor,
    prompts: Tensor | None,
    b_U: Tensor | None,
    kind: int,
    eps: float,
    gain: Tensor | None,
    shift: Tensor | None,
    cap: float,
    to_weights: bool,
) -> list[Tensor]:
    """Gradients of stream, gain, norm's bias, unembedding and its bias; empty ones where there is nothing."""
    to_resid, slopes, to_gain, to_shift = launch_pull_back(
        grad.contiguous(), resid, W_U, tokens, prompts, b_U, kind, eps, gain, shift, cap
    )
    to_W, to_b = None, None
    if to_weights:
        to_W = torch.zeros((W_U.shape[1], W_U.shape[0]), dtype=W_U.dtype, device=W_U.device)
        to_b = None if b_U is None else torch.zeros_like(b_U)
        normed = resid if kind == NONE else normalise(resid, _norm_of(kind, eps, gain, shift))
        asked = tokens if prompts is None else tokens[prompts]
        asked = asked[:, None].expand(-1, resid.shape[1], -1)
        launch_sum_by_token(slopes, normed.flatten(0, 1).contiguous(), asked, to_W, to_b)
    return [
        resid.new_empty(0) if part is None else part for part in (to_resid, to_gain, to_shift, to_W, to_b)
    ]


@read_tokens_backward_op.register_fake
def _(
    grad: Tensor,
    resid: Tensor,
    W_U: Tensor,
    tokens: Tensor,
    prompts: Tensor | None,
    b_U: Tensor | None,
    kind: int,
    eps: float,
    gain: Tensor | None,
    shift: Tensor | None,
    cap: float,
    to_weights: bool,
) -> list[Tensor]:
    nothing = resid.new_empty(0)
    return [
        resid.new_empty(resid.shape),
        resid.new_empty(0) if gain is None else torch.empty_like(gain),
        resid.new_empty(0) if shift is None else torch.empty_like(shift),
        W_U.new_empty((W_U.shape[1], W_U.shape[0])) if to_weights else resid.new_empty(0),
        nothing if b_U is None or not to_weights else torch.empty_like(b_U),
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    resid, W_U, tokens, prompts, b_U, kind, eps, gain, shift, cap, _ = inputs
    ctx.save_for_backward(resid, W_U, tokens, prompts, b_U, gain, shift)
    ctx.settings = kind, eps, cap


def _pull(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    resid, W_U, tokens, prompts, b_U, gain, shift = ctx.saved_tensors
    kind, eps, cap = ctx.settings
    needs = ctx.needs_input_grad
    to_resid, to_gain, to_shift, to_W, to_b = read_tokens_backward_op(
        grad, resid, W_U, tokens, prompts, b_U, kind, eps, gain, shift, cap, needs[1] or needs[4]
    )
    return (
        to_resid if needs[0] else None,
        to_W.T if needs[1] else None,
        None,
        None,
        to_b if needs[4] else None,
        None,
        None,
        to_gain if needs[7] else None,
        to_shift if needs[8] else None,
        None,
        None,
    )


read_tokens_op.register_autograd(_pull, setup_context=_keep)


def _empty_logits(resid: Tensor, tokens: Tensor, wide: bool) -> Tensor:
    shape = (resid.shape[0], resid.shape[1], tokens.shape[1])
    return resid.new_empty(shape, dtype=torch.float32 if wide else resid.dtype)


def _norm_of(kind: int, eps: float, gain: Tensor | None, shift: Tensor | None) -> Norm:
    return Norm("layernorm" if kind == LAYERNORM else "rmsnorm", eps, gain, shift, kind == RMSNORM_PLUS_ONE)
