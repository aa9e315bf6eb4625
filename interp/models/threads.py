"""How many threads PyTorch takes, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def hold_threads(n: int | None) -> Iterator[None]:
    """Hold PyTorch to ``n`` threads, and give it back the number it had; ``None`` changes nothing."""
    before = torch.get_num_threads()
    try:
        if n is not None:
            torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)
