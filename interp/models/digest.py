"""What tells one model's weights from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.models.model import Model

_SAMPLED = 4096


def digest_weights(model: Model) -> str:
    """A short digest of the weights: shapes, and up to 4096 evenly spaced values of each.

    Of the weights in this package's shapes, whose names do not change with the version of TransformerLens as those
    of the wrapped module do. Values are rounded to bfloat16, so that loading a model in another precision seldom
    changes its digest; a model that was trained on has another one.
    """
    found = hashlib.blake2b(digest_size=12)
    for name, value in _tensors(model.weights, ""):
        found.update(f"{name}{list(value.shape)}".encode())
        values = _spaced(value.detach())
        found.update(values.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return found.hexdigest()


def _tensors(part: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield path, part
    elif isinstance(part, tuple):
        for number, one in enumerate(part):
            yield from _tensors(one, f"{path}[{number}]")
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name), f"{path}.{field.name}")


def _spaced(value: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, " sampled"]:
    """Entries at even steps in reading order. Picked one by one: weights may be views that flatten to copies."""
    n = value.numel()
    at = torch.arange(0, n, max(1, -(-n // _SAMPLED)), device=value.device)
    return value[torch.unravel_index(at, value.shape)]
