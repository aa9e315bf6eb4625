"""Launches at the sizes of real models, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from prefix_rows import draw_heads, draw_rows

import interp.kernels.prefix_attention.ops  # noqa: F401  (before the process pretends to interpret)
from interp.kernels.prefix_attention import attend_prefix


def launches() -> dict[str, Callable[[], object]]:
    """Forward and backward by name: each dtype, grouped queries, a soft cap, padding, a window."""
    gpt2 = dict(n_heads=12, n_kv_heads=12, d_head=64)
    llama = dict(n_heads=32, n_kv_heads=8, d_head=128)
    return {
        "bf16": lambda: _run(gpt2, torch.bfloat16),
        "fp16 grouped": lambda: _run(llama, torch.float16, backward=False),
        "fp32 capped, padded, window": lambda: _run(gpt2, torch.float32, soft_cap=30.0, padded=True),
    }


def _run(
    heads: dict[str, int],
    dtype: torch.dtype,
    soft_cap: float | None = None,
    padded: bool = False,
    backward: bool = True,
) -> None:
    rows = draw_rows([([0, 1, 2, 3] * 64, 512), ([0, 1] * 64, 504)], 528)
    given = draw_heads(rows, 4, dtype=dtype, **heads)
    real = torch.ones(4, 528, dtype=torch.bool) if padded else None
    window = 256 if padded else None
    z = attend_prefix(**given, rows=rows, scale=0.1, soft_cap=soft_cap, window=window, real=real)
    if backward:
        z.backward(torch.ones_like(z))
