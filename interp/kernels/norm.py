"""A norm as kernels take it, and what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm or RMSNorm over the last axis, with the gain and bias of a model."""

    kind: Literal["layernorm", "rmsnorm"]
    eps: float
    gain: Float[Tensor, " d"] | None = None
    bias: Float[Tensor, " d"] | None = None
    plus_one: bool = False
    """RMSNorm multiplies by ``1 + gain``, before it rounds to the activation's dtype (Gemma); otherwise it rounds
    before it multiplies by ``gain`` (Llama)."""


def normalise(x: Float[Tensor, "*rest d"], norm: Norm) -> Float[Tensor, "*rest d"]:
    """The norm as models compute it, half precision included: the truth for every kernel that has one in it."""
    if norm.kind == "layernorm":
        return F.layer_norm(x, x.shape[-1:], norm.gain, norm.bias, norm.eps)
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    if norm.gain is None:
        return normed.to(x.dtype)
    if norm.plus_one:
        return (normed * (1.0 + norm.gain.to(wide.dtype))).to(x.dtype)
    return norm.gain * normed.to(x.dtype)
