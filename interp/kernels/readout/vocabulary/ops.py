"""Summaries of the vocabulary as an operation of PyTorch: autograd, fake tensors, ``torch.compile``."""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.readout.vocabulary.triton import align_lines, launch_scan, launch_slope

_AT_ONCE = 1 << 24
"""Gradients of logits that the backward holds at a time."""


@torch.library.custom_op("interp::readout_vocabulary", mutates_args=())
def scan_op(
    x: Tensor,
    W_U: Tensor,
    b_U: Tensor | None,
    tokens: Tensor,
    prompts: Tensor | None,
    found: Tensor,
    k: int,
    reference: Tensor | None,
    cap: float,
    others: bool,
    argmax: bool,
) -> list[Tensor]:
    """Log-sum-exp of rows and of the reference, divergence, largest, argmax, largest other, number above.

    [row * k] each, empty what is not asked for; ``cap`` 0 is none.
    """
    lines = align_lines(reference)
    done = launch_scan(x, W_U, b_U, tokens, prompts, found, k, lines, cap, others, argmax)
    return [x.new_empty(0) if part is None else part for part in done]


@scan_op.register_fake
def _(
    x: Tensor,
    W_U: Tensor,
    b_U: Tensor | None,
    tokens: Tensor,
    prompts: Tensor | None,
    found: Tensor,
    k: int,
    reference: Tensor | None,
    cap: float,
    others: bool,
    argmax: bool,
) -> list[Tensor]:
    floats = [True, reference is not None, reference is not None, True]
    made = [x.new_empty(len(x), dtype=torch.float32) if wanted else x.new_empty(0) for wanted in floats]
    for wanted, dtype in ((argmax, torch.int64), (others, torch.float32), (others, torch.int64)):
        made.append(x.new_empty(len(x), dtype=dtype) if wanted else x.new_empty(0))
    return made


@torch.library.custom_op("interp::readout_vocabulary_backward", mutates_args=())
def scan_backward_op(
    x: Tensor,
    W_U: Tensor,
    b_U: Tensor | None,
    prompts: Tensor | None,
    k: int,
    reference: Tensor | None,
    log_sum_exp: Tensor,
    reference_log_sum_exp: Tensor | None,
    cap: float,
    grad: Tensor,
    grad_divergence: Tensor | None,
    to_weights: bool,
) -> list[Tensor]:
    """Gradients of stream, unembedding [d_vocab, d_model] and its bias, from logits made again a part at a time."""
    n, d_model = x.shape
    d_vocab = W_U.shape[1]
    # in fp16 gradients of improbable tokens would be 0
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    to_x = torch.zeros((n, d_model), dtype=torch.float32, device=x.device)
    to_W = torch.zeros((d_vocab, d_model) if to_weights else 0, dtype=W_U.dtype, device=x.device)
    to_b = torch.zeros(d_vocab if to_weights and b_U is not None else 0, dtype=x.dtype, device=x.device)
    lines = align_lines(reference)
    width = min(d_vocab, max(256, _AT_ONCE // max(n, 1) // 256 * 256))
    for first in range(0, d_vocab if n else 0, width):
        last = min(first + width, d_vocab)
        slopes = x.new_empty((n, last - first), dtype=dtype)
        launch_slope(
            x, W_U, b_U, prompts, k, lines, log_sum_exp, reference_log_sum_exp, cap, grad,
            grad_divergence, first, slopes,
        )  # fmt: skip
        to_x += slopes @ W_U[:, first:last].T.to(dtype)
        if to_weights:
            to_W[first:last] = slopes.T @ x.to(dtype)
            if b_U is not None:
                to_b[first:last] = slopes.sum(0, dtype=torch.float32)
    return [to_x.to(x.dtype), to_W, to_b]


@scan_backward_op.register_fake
def _(
    x: Tensor,
    W_U: Tensor,
    b_U: Tensor | None,
    prompts: Tensor | None,
    k: int,
    reference: Tensor | None,
    log_sum_exp: Tensor,
    reference_log_sum_exp: Tensor | None,
    cap: float,
    grad: Tensor,
    grad_divergence: Tensor | None,
    to_weights: bool,
) -> list[Tensor]:
    d_vocab = W_U.shape[1]
    return [
        x.new_empty(x.shape),
        W_U.new_empty((d_vocab, W_U.shape[0]) if to_weights else 0),
        x.new_empty(d_vocab if to_weights and b_U is not None else 0),
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, W_U, b_U, _, prompts, _, k, reference, cap, _, _ = inputs
    ctx.save_for_backward(x, W_U, b_U, prompts, reference, output[0], output[1])
    ctx.settings = k, cap


def _pull(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    x, W_U, b_U, prompts, reference, log_sum_exp, reference_log_sum_exp = ctx.saved_tensors
    k, cap = ctx.settings
    needs = ctx.needs_input_grad
    grad, grad_divergence = (
        None if part is None or not part.numel() else part.contiguous() for part in (grads[0], grads[2])
    )
    grad = torch.zeros_like(log_sum_exp) if grad is None else grad
    if reference is not None and grad_divergence is None:
        grad_divergence = torch.zeros_like(log_sum_exp)
    to_x, to_W, to_b = scan_backward_op(
        x,
        W_U,
        b_U,
        prompts,
        k,
        reference,
        log_sum_exp,
        None if reference is None else reference_log_sum_exp,
        cap,
        grad,
        grad_divergence,
        needs[1] or needs[2],
    )
    none = (None,) * 8
    return to_x if needs[0] else None, to_W.T if needs[1] else None, to_b if needs[2] else None, *none


scan_op.register_autograd(_pull, setup_context=_keep)
