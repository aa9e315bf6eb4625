"""Proximal steps towards the identity: which numbers of a map are kept, and which are exactly none."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError, unknown_name

Group = Literal["number", "neuron", "site"]
"""What a penalty takes together: each number alone (l1), a neuron's two numbers, all numbers of a site."""

GROUPS: tuple[Group, ...] = get_args(Group)


def shrink(
    offsets: Float[Tensor, "kind d"], thresholds: Float[Tensor, "kind d"], group: Group = "number"
) -> Float[Tensor, "kind d"]:
    """The proximal step of a group lasso: groups shorter than their threshold become 0, others are shortened by it.

    ``offsets`` are ``w - 1`` and ``b``. In a group of several numbers the mean of their thresholds counts, times
    the root of their number, so that a large group pays as much a number as a small one.
    Raises :class:`SteeringError` for an unknown group.
    """
    if group not in GROUPS:
        raise SteeringError(unknown_name("group of a penalty", group, GROUPS))
    if group == "number":
        return offsets.sign() * (offsets.abs() - thresholds).clamp(min=0)
    axes = (0,) if group == "neuron" else (0, 1)
    size = offsets.shape[0] if group == "neuron" else offsets.numel()
    length = offsets.pow(2).sum(axes, keepdim=True).sqrt()
    threshold = thresholds.mean(axes, keepdim=True) * size**0.5
    return offsets * torch.where(length > threshold, 1 - threshold / length.clamp(min=1e-30), 0.0)


def kept_neurons(offsets: Float[Tensor, "kind d"]) -> int:
    """Neurons whose map is not the identity."""
    return int((offsets != 0).any(0).sum())
