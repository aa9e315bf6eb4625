"""What tells one data set of prompts from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def describe_data(data: Any) -> str:
    """A data set's kind, and a digest of what it holds where that is in memory."""
    kind = type(data).__name__
    mark = getattr(data, "_fingerprint", None)
    if isinstance(mark, str):
        return f"{kind} {mark}"
    if not isinstance(data, torch.Tensor | Sequence):
        return kind
    found = hashlib.blake2b(digest_size=16)
    for part in [data] if isinstance(data, torch.Tensor | str) else data:
        _add(found, part)
    return f"{kind} {found.hexdigest()}"


def _add(found: Any, item: Any) -> None:
    if isinstance(item, str):
        data = item.encode()
    elif isinstance(item, torch.Tensor):
        data = item.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(item, tuple) and any(isinstance(part, torch.Tensor) for part in item):
        for part in item:
            _add(found, part)
        return
    else:
        data = np.asarray(item).tobytes()
    found.update(len(data).to_bytes(8, "little") + data)
