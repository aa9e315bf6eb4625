"""The kernels as operators of torch, and values that have their gradients; imported where a kernel runs.

The values themselves pass through ``autograd.Function``, not through an operator: an operator's output may not
be its input, and a copy would cost as much as the backward.
"""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.norm import Norm
from interp.kernels.relevance.triton import (
    launch_gap_units,
    launch_pull_rows,
    launch_pull_units,
    launch_scale_rows,
)


@torch.library.custom_op("interp::relevance_activation_backward", mutates_args=())
def activation_backward(grad: Tensor, x: Tensor, act_fn: str, cap: float | None) -> Tensor:
    """Identity-rule: ``grad * act(x) / x``."""
    return launch_pull_units(grad, x, None, act_fn, cap, 1.0)[0]


@activation_backward.register_fake
def _(grad: Tensor, x: Tensor, act_fn: str, cap: float | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("interp::relevance_gate_backward", mutates_args=())
def gate_backward(grad: Tensor, gate: Tensor, up: Tensor, act_fn: str, share: float) -> tuple[Tensor, Tensor]:
    """Identity-rule and Half-rule: gradients at both factors of a gate."""
    to_gate, to_up = launch_pull_units(grad, gate, up, act_fn, None, share)
    assert to_up is not None
    return to_gate, to_up


@gate_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor, act_fn: str, share: float) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(gate, memory_format=torch.contiguous_format),
        torch.empty_like(up, memory_format=torch.contiguous_format),
    )


@torch.library.custom_op("interp::relevance_units_gap", mutates_args=())
def units_gap(
    value: Tensor,
    x: Tensor,
    up: Tensor | None,
    bias: Tensor | None,
    act_fn: str,
    cap: float | None,
    share: float,
) -> Tensor:
    """Largest size of an activation or gate, and of its difference from what the rule takes it to be."""
    return launch_gap_units(value, x, up, bias, act_fn, cap, share)


@units_gap.register_fake
def _(
    value: Tensor,
    x: Tensor,
    up: Tensor | None,
    bias: Tensor | None,
    act_fn: str,
    cap: float | None,
    share: float,
) -> Tensor:
    return torch.empty(2, dtype=torch.float32, device=x.device)


@torch.library.custom_op("interp::relevance_norm", mutates_args=())
def norm_scale(
    value: Tensor,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    plus_one: bool,
    check: bool,
) -> tuple[Tensor, Tensor]:
    """Scale of every row, and the gap as of :func:`units_gap`."""
    return launch_scale_rows(value, x, gain, bias, eps, centred, plus_one, check)


@norm_scale.register_fake
def _(
    value: Tensor,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    plus_one: bool,
    check: bool,
) -> tuple[Tensor, Tensor]:
    rows = x.shape[:-1].numel() if x.shape[-1] else 0
    return (
        torch.empty(rows, dtype=torch.float32, device=x.device),
        torch.empty(2, dtype=torch.float32, device=x.device),
    )


@torch.library.custom_op("interp::relevance_norm_backward", mutates_args=())
def norm_backward(
    grad: Tensor, scales: Tensor, gain: Tensor | None, centred: bool, plus_one: bool, dtype: torch.dtype
) -> Tensor:
    """LN-rule: the gradient at a norm's input with its scale held constant."""
    return launch_pull_rows(grad, scales, gain, centred, plus_one, dtype)


@norm_backward.register_fake
def _(
    grad: Tensor, scales: Tensor, gain: Tensor | None, centred: bool, plus_one: bool, dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(grad, dtype=dtype, memory_format=torch.contiguous_format)


class ActivationValue(torch.autograd.Function):
    """The value of an activation function with the gradient of the Identity-rule."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, act_fn: str, cap: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.act_fn, ctx.cap = act_fn, cap
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, activation_backward(grad, x, ctx.act_fn, ctx.cap), None, None


class GateValue(torch.autograd.Function):
    """The value of a gate with the gradients of the Identity- and the Half-rule."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gate: Tensor, up: Tensor, bias: Tensor | None, act_fn: str, share: float
    ) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act_fn, ctx.share = act_fn, share
        ctx.bias_dtype = None if bias is None else bias.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        to_gate, to_up = gate_backward(grad, gate, up, ctx.act_fn, ctx.share)
        to_bias = _sum_rows(grad).to(ctx.bias_dtype) if ctx.needs_input_grad[3] else None
        return None, to_gate, to_up, to_bias, None, None


class NormValue(torch.autograd.Function):
    """The value of a norm with the gradient of the LN-rule; ``scales`` are those of its rows."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        scales: Tensor,
        centred: bool,
        plus_one: bool,
    ) -> Tensor:
        # the input itself only where a gain wants its gradient
        ctx.save_for_backward(scales, gain, x if ctx.needs_input_grad[2] else None)
        ctx.centred, ctx.plus_one, ctx.dtype = centred, plus_one, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scales, gain, x = ctx.saved_tensors
        to_x = norm_backward(grad, scales, gain, ctx.centred, ctx.plus_one, ctx.dtype)
        to_gain = to_bias = None
        if ctx.needs_input_grad[2]:
            wide = x.float()
            wide = wide - wide.mean(-1, keepdim=True) if ctx.centred else wide
            to_gain = _sum_rows(grad.float() * (wide / scales.view(*x.shape[:-1], 1))).to(gain.dtype)
        if ctx.needs_input_grad[3]:
            to_bias = _sum_rows(grad).to(ctx.bias_dtype)
        return None, to_x, to_gain, to_bias, None, None, None


def _sum_rows(x: Tensor) -> Tensor:
    return x.float().flatten(0, -2).sum(0)


def follow_norm(value: Tensor, x: Tensor, norm: Norm, check: bool) -> tuple[Tensor, Tensor]:
    """The value with the rule's gradient, and the gap."""
    gain, bias, centred = norm.gain, norm.bias, norm.kind == "layernorm"
    still = [None if t is None else t.detach() for t in (value, x, gain, bias)]
    scales, gap = norm_scale(*still, norm.eps, centred, norm.plus_one, check)
    return NormValue.apply(value.detach(), x, gain, bias, scales, centred, norm.plus_one), gap
