"""What a search costs: prompts that went through the model, and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from interp.models.model import Model


@dataclass
class Cost:
    """Counted while :func:`count_cost` is open."""

    forwards: int = 0
    """Prompts that went forward: rows of batches."""
    seconds: float = 0.0


@contextmanager
def count_cost(model: Model) -> Iterator[Cost]:
    """Count every forward of the model inside the block."""
    cost, begun = Cost(), time.perf_counter()

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("input"))
        cost.forwards += len(kwargs["inputs_embeds"] if tokens is None else tokens)

    handle = model.module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield cost
    finally:
        handle.remove()
        cost.seconds = time.perf_counter() - begun
