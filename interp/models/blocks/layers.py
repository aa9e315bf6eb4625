"""The parts a block is made of, in the numerics of the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.kernels.norm import Norm, normalise
from interp.models.traits import NormWeights, Traits

_SQRT_2_OVER_PI = torch.tensor(math.sqrt(2 / math.pi), dtype=torch.float32, device="cpu")


def _gelu_tanh(x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.requires_grad:
        return F.gelu(x, approximate="tanh")
    # torch's fused kernel has a scalar tanh: a few passes over a block in the cache take half the time
    inner = torch.addcmul(_SQRT_2_OVER_PI, x, x, value=0.044715 * math.sqrt(2 / math.pi)).mul_(x)
    return inner.tanh_().add_(1.0).mul_(x).mul_(0.5)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "identity": _identity,
}
"""Activation functions by the names that configs use; the spellings of the tanh form of GELU are one."""


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias``; the weight is a view on the model's own wherever its layout allows."""

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"] | None = None

    def __call__(
        self, x: Float[Tensor, "n d_in"], out: Float[Tensor, "n d_out"] | None = None
    ) -> Float[Tensor, "n d_out"]:
        if self.bias is None:
            return torch.mm(x, self.weight, out=out)
        return torch.addmm(self.bias, x, self.weight, out=out)


def join_linears(parts: Sequence[Linear]) -> Linear | None:
    """One map for several that lie side by side in one stored matrix; ``None`` where they do not."""
    first = parts[0].weight
    at = first.storage_offset()
    for part in parts:
        weight = part.weight
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.stride() != (first.stride(0), 1) or weight.storage_offset() != at:
            return None
        at += weight.shape[1]
    joined = first.as_strided((len(first), at - first.storage_offset()), first.stride())
    biases = [part.bias for part in parts if part.bias is not None]
    if len(biases) not in (0, len(parts)):
        return None
    return Linear(joined, torch.cat(biases) if biases else None)


def join_heads_out(weight: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "d_model out"]:
    """One matrix of all heads. No copy where heads are rows of one stored matrix."""
    return weight.transpose(1, 2).reshape(-1, weight.shape[1]).T


def apply_stored_norm(
    x: Float[Tensor, "*rest d"], norm: NormWeights | None, traits: Traits
) -> Float[Tensor, "*rest d"]:
    """The norm as the model itself computes it, half precision included.

    LayerNorm is one kernel. RMSNorm is taken in fp32; Llama rounds before the gain and Gemma after
    it. ``norm=None`` has no gain and no bias, and without norms ``x`` itself is returned.
    """
    given = norm_of(norm, traits)
    return x if given is None else normalise(x, given)


def norm_of(norm: NormWeights | None, traits: Traits) -> Norm | None:
    """A stored norm as kernels take it; ``None`` for a model without norms."""
    if traits.norm is None:
        return None
    gain, bias = (None, None) if norm is None else (norm.w, norm.b)
    return Norm(traits.norm, traits.norm_eps, gain, bias, traits.norm_plus_one)


def rms_norm(
    x: Float[Tensor, "*rest d"], gain: Float[Tensor, " d"] | None, traits: Traits
) -> Float[Tensor, "*rest d"]:
    """RMSNorm over the last axis, also over d_head for queries and keys."""
    return normalise(x, Norm("rmsnorm", traits.norm_eps, gain, plus_one=traits.norm_plus_one))


def rotate(
    x: Float[Tensor, "row pos head d_head"],
    cos: Float[Tensor, "#row pos rotary"],
    sin: Float[Tensor, "#row pos rotary"],
) -> Float[Tensor, "row pos head d_head"]:
    """Rotary position embedding of the first ``rotary`` entries of every head, halves as pairs."""
    n = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = x[..., :n]
    half = torch.cat([-turned[..., n // 2 :], turned[..., : n // 2]], dim=-1)
    turned = turned * cos + half * sin
    return turned if n == x.shape[-1] else torch.cat([turned, x[..., n:]], dim=-1)
