"""The coefficient ``act(x) / x`` of activation functions, in closed form.

It is what the Identity-rule of layer-wise relevance propagation multiplies by. Dividing by ``x + eps``
instead, as implementations do, gives 0 at ``x = 0``, where GELU and SiLU have the limit one half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RuleError, unknown_name


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


def _gelu_tanh(x: Tensor) -> Tensor:
    # 0.5 (1 + tanh u) is sigmoid(2u), which does not round to 0 for negative u
    return torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))


def _quick_gelu(x: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * x)


def _relu(x: Tensor) -> Tensor:
    return torch.heaviside(x, x.new_tensor(0.5))


def _tanh(x: Tensor) -> Tensor:
    small = x.abs() < 1e-3
    return torch.where(small, 1 - x.pow(2) / 3, torch.tanh(x) / torch.where(small, 1.0, x))


SECANTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "gelu": _gelu,
        "gelu_new": _gelu_tanh,
        "gelu_fast": _gelu_tanh,
        "gelu_pytorch_tanh": _gelu_tanh,
        "quick_gelu": _quick_gelu,
        "silu": torch.sigmoid,
        "swish": torch.sigmoid,
        "relu": _relu,
        "tanh": _tanh,
        "identity": torch.ones_like,
    }
)
"""By the names that configs use."""


def secant(act_fn: str, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``act(x) / x``: ``Phi(x)`` for GELU, ``sigmoid(x)`` for SiLU, 0 or 1 for ReLU.

    At 0 it is the limit; ReLU, which has two, gets their mean, one half. Computed in fp32 at least.
    Raises :class:`RuleError` for an activation function whose form is not known.
    """
    if act_fn not in SECANTS:
        raise RuleError(unknown_name("activation function", act_fn, SECANTS))
    wide = x if x.dtype == torch.float64 else x.float()
    return SECANTS[act_fn](wide).to(x.dtype)
