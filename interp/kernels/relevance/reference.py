"""Rules of layer-wise relevance propagation as chains of PyTorch operations: the truth for the kernels.

A rule is a *surrogate*, a tensor whose gradient stands in for an operation's; the operation keeps its value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.norm import Norm
from interp.kernels.relevance.secants import secant


class Propagated(NamedTuple):
    """An operation's value with the gradient of a rule."""

    value: Tensor
    gap: Float[Tensor, "2"] | None = None
    """Largest size of the value, and of its difference from what the rule takes the operation to be."""


class _Instead(torch.autograd.Function):
    """A value with the gradient of another: the first argument's value, the second's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def give_gradient(
    value: Float[Tensor, "*shape"], surrogate: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """``value`` to the bit, with the gradient of ``surrogate``."""
    return _Instead.apply(value.detach(), surrogate)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(value: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """``value`` to the bit, with ``factor`` times its gradient."""
    return _Scaled.apply(value, factor)


@torch.no_grad()
def measure_gap(value: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"]) -> Float[Tensor, "2"]:
    """The largest finite size of ``value``, and its largest difference from ``expected``, in fp32.

    NaN where both have it is no difference, and an infinite one where only one does.
    """
    expected = expected.to(value.dtype)
    if not value.numel():
        return value.new_zeros(2, dtype=torch.float32)
    difference = (value - expected).abs().nan_to_num_(torch.inf, torch.inf)
    alike = (value == expected) | (value.isnan() & expected.isnan())
    size = value.abs().nan_to_num_(0.0, 0.0)
    return torch.stack([size.max(), difference.masked_fill_(alike, 0.0).max()]).float()


def norm_surrogate(x: Float[Tensor, "*rest d"], norm: Norm) -> Float[Tensor, "*rest d"]:
    """LN-rule: the scale is a constant, and what is centred is the gradient too; in fp32 at least."""
    wide = x if x.dtype == torch.float64 else x.float()
    centred = _centre(wide, norm)
    scale = (_centre(wide.detach(), norm).pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    normed = centred * (_gain(norm) / scale)
    return normed if norm.bias is None else normed + norm.bias


def _centre(x: Tensor, norm: Norm) -> Tensor:
    return x - x.mean(-1, keepdim=True) if norm.kind == "layernorm" else x


def _gain(norm: Norm) -> Tensor | float:
    if norm.gain is None:
        return 1.0
    wide = norm.gain if norm.gain.dtype == torch.float64 else norm.gain.float()
    return wide + 1.0 if norm.plus_one else wide


def activation_surrogate(
    x: Float[Tensor, "*shape"], act_fn: str, cap: float | None = None
) -> Float[Tensor, "*shape"]:
    """Identity-rule: ``x`` times the constant ``act(x) / x``, which under a ``cap`` is taken at ``x / cap``."""
    still = x.detach()
    return x * secant(act_fn, still if cap is None else still / cap)


def gate_surrogate(
    gate: Float[Tensor, "*rest d"],
    up: Float[Tensor, "*rest d"],
    act_fn: str,
    share: float,
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "*rest d"]:
    """``act(gate) * up``, each factor with its ``share``: half of the relevance under the Half-rule."""
    coefficient = secant(act_fn, gate.detach())
    through_gate, value = gate * (coefficient * up.detach()), gate.detach() * coefficient
    product = share * (through_gate + value * up)
    return product if bias is None else product + bias
