"""Norms as plain functions of a model's weights, and their linear parts: forward and backward.

A norm is ``(x - mean(x)) / scale(x) * gain + bias`` (RMSNorm: without the mean). With ``scale``
fixed at its value in a run it is affine, so what several parts of ``x`` contribute to any direction
of its output adds up exactly (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits", "handling layer normalization"); :func:`pull_back` and :func:`push_forward` are that map's.
:func:`norm_vjp` and :func:`norm_jvp` are those of the derivative, in which the scale moves too. All
arithmetic is in fp32 or above.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.traits import NormWeights, Traits


def widen(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """At least fp32: half precision is raised, fp64 is kept."""
    return x if x.dtype == torch.float64 else x.float()


def norm_gain(norm: NormWeights | None, traits: Traits) -> Float[Tensor, " d"] | float:
    """What the normalised activation is multiplied by; 1 for a norm without weights."""
    if norm is None:
        return 1.0
    return widen(norm.w) + 1.0 if traits.norm_plus_one else widen(norm.w)


def centre(x: Float[Tensor, "*rest d"], traits: Traits) -> Float[Tensor, "*rest d"]:
    """Take off the mean over d where the model's norms do; the map is its own transpose."""
    return x - x.mean(-1, keepdim=True) if traits.norm == "layernorm" else x


def norm_scale(x: Float[Tensor, "*rest d"], traits: Traits) -> Float[Tensor, "*rest 1"]:
    """What a norm divides ``x`` by: ``sqrt(mean(x^2) + eps)`` of the centred ``x``; 1 without norms."""
    x = widen(x)
    if traits.norm is None:
        return torch.ones_like(x[..., :1])
    return (centre(x, traits).pow(2).mean(-1, keepdim=True) + traits.norm_eps).sqrt()


def apply_norm(
    x: Float[Tensor, "*rest d"], norm: NormWeights | None, traits: Traits
) -> Float[Tensor, "*rest d"]:
    """The norm as the model applies it, in fp32. ``norm=None`` has no gain and no bias."""
    x = widen(x)
    if traits.norm is None:
        return x
    x = centre(x, traits) / norm_scale(x, traits) * norm_gain(norm, traits)
    return x if norm is None or norm.b is None else x + norm.b


def pull_back(
    direction: Float[Tensor, "*rest d"],
    x: Float[Tensor, "*#rest d"],
    norm: NormWeights | None,
    traits: Traits,
) -> Float[Tensor, "*rest d"]:
    """The direction before a norm that reads what ``direction`` reads after it.

    For any split ``x = sum_i x_i``, with ``w`` the result: ``sum_i x_i . w`` is
    ``apply_norm(x) . direction`` less the norm's bias along ``direction``. The scale is fixed at
    that of ``x``; gain and centring are folded in exactly.
    """
    direction = widen(direction)
    if traits.norm is None:
        return direction
    return centre(direction * norm_gain(norm, traits), traits) / norm_scale(x, traits)


def push_forward(
    change: Float[Tensor, "*rest d"],
    x: Float[Tensor, "*#rest d"],
    norm: NormWeights | None,
    traits: Traits,
) -> Float[Tensor, "*rest d"]:
    """What a part of the norm's input comes to in its output, the scale fixed at that of ``x``.

    The transpose of :func:`pull_back`.
    """
    change = widen(change)
    if traits.norm is None:
        return change
    return centre(change, traits) / norm_scale(x, traits) * norm_gain(norm, traits)


def norm_vjp(
    gradient: Float[Tensor, "*rest d"],
    x: Float[Tensor, "*#rest d"],
    norm: NormWeights | None,
    traits: Traits,
) -> Float[Tensor, "*rest d"]:
    """The gradient at the norm's input ``x`` of a gradient at its output."""
    gradient = widen(gradient)
    if traits.norm is None:
        return gradient
    return _differentiate(gradient * norm_gain(norm, traits), x, traits)


def norm_jvp(
    change: Float[Tensor, "*rest d"],
    x: Float[Tensor, "*#rest d"],
    norm: NormWeights | None,
    traits: Traits,
) -> Float[Tensor, "*rest d"]:
    """To first order, how the norm's output moves with a change of its input ``x``."""
    change = widen(change)
    if traits.norm is None:
        return change
    return _differentiate(change, x, traits) * norm_gain(norm, traits)


def _differentiate(v: Tensor, x: Tensor, traits: Traits) -> Tensor:
    """The derivative of ``centre(x) / scale(x)`` along ``v``; the map is its own transpose."""
    scale = norm_scale(x, traits)
    unit = centre(widen(x), traits) / scale
    along = torch.linalg.vecdot(unit, v).unsqueeze(-1) / x.shape[-1]
    return torch.addcmul(centre(v, traits), unit, along, value=-1).div_(scale)
