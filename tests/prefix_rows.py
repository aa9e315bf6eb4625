"""Rows in flight over a base run's keys, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interp.kernels.prefix_attention import Rows


def draw_rows(
    waves: Sequence[tuple[list[int], int]],
    stop: int,
    n_columns: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[Rows]:
    """Waves of (prompts, first column); with ``n_columns``, rows that ask at as many random columns only."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for prompts, start in waves:
        columns = None
        if n_columns is not None:
            columns = torch.randint(start, stop, (len(prompts), n_columns), generator=draw).to(device)
        made.append(Rows(torch.tensor(prompts, dtype=torch.long, device=device), start, stop, columns))
    return made


def draw_heads(
    rows: Sequence[Rows],
    n_prompts: int,
    n_heads: int = 2,
    n_kv_heads: int = 2,
    d_head: int = 8,
    dtype: torch.dtype = torch.float32,
    n_pos: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Queries, keys and values of rows and of a prefix, by the names of ``attend_prefix``; leaves of autograd."""
    device = rows[0].prompts.device if rows else torch.device("cpu")
    draw = torch.Generator().manual_seed(seed)
    n_queries = sum(len(part.prompts) * part.n_queries for part in rows)
    n_keys = sum(len(part.prompts) * part.n_keys for part in rows)
    n_pos = max((part.stop for part in rows), default=1) if n_pos is None else n_pos
    shapes = {
        "q": (n_queries, n_heads, d_head),
        "k": (n_keys, n_kv_heads, d_head),
        "v": (n_keys, n_kv_heads, d_head),
        "prefix_k": (n_prompts, n_kv_heads, n_pos, d_head),
        "prefix_v": (n_prompts, n_kv_heads, n_pos, d_head),
    }
    return {
        name: torch.randn(shape, generator=draw).to(device, dtype).requires_grad_()
        for name, shape in shapes.items()
    }
