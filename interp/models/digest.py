"""What tells one model's weights from another's."""

from __future__ import annotations

import hashlib

import torch

from interp.models.model import Model

_SAMPLED = 4096


def digest_weights(model: Model) -> str:
    """A short digest of the weights: names, shapes, and up to 4096 evenly spaced values of each parameter.

    Values are rounded to bfloat16, so that loading a model in another precision seldom changes its digest; a
    model that was trained on has another one.
    """
    found = hashlib.blake2b(digest_size=12)
    parameters = model.named_weights()
    for name in sorted(parameters):
        value = parameters[name].detach()
        found.update(f"{name}{list(value.shape)}".encode())
        flat = value.reshape(-1)
        step = max(1, -(-flat.numel() // _SAMPLED))
        found.update(flat[::step].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return found.hexdigest()
