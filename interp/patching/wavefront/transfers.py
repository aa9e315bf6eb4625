"""Numbers sent to the device and scores read back, without waiting for either on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def send_numbers(numbers: np.ndarray, device: torch.device) -> Shaped[Tensor, "..."]:
    """A copy on a device. From a GPU's page-locked memory, so that the host goes on at once."""
    given = torch.from_numpy(np.ascontiguousarray(numbers))
    if device.type != "cuda":
        return given.to(device)
    return given.pin_memory().to(device, non_blocking=True)


def send_together(arrays: Sequence[np.ndarray], device: torch.device) -> list[Shaped[Tensor, "..."]]:
    """Arrays of one dtype in one transfer."""
    sent = send_numbers(np.concatenate([array.reshape(-1) for array in arrays]), device)
    parts = sent.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


class ReadBack:
    """Scores on their way to the host; :meth:`wait` gives them."""

    def __init__(self, scores: Float[Tensor, " row"]) -> None:
        self._arrived: Any = None
        if scores.device.type != "cuda":
            self._there: Tensor = scores.cpu()
            return
        self._there = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        self._there.copy_(scores, non_blocking=True)
        self._arrived = torch.cuda.Event()
        # the scores' device need not be the current one
        self._arrived.record(torch.cuda.current_stream(scores.device))

    def wait(self) -> Float[Tensor, " row"]:
        """The scores, on the host."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._there
