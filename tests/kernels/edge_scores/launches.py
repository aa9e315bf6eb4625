"""Launches of this kernel that are compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import interp.kernels.edge_scores.ops  # noqa: F401  (before the process pretends to interpret)
from interp.kernels.edge_scores import score_pairs, sum_pairs


def launches() -> dict[str, Callable[[], object]]:
    """The shape of GPT-2 small, 16 pairs of prompts, and small tiles of few readers."""
    found: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        changed, gradient = (torch.empty(n, 16, 10, 768, dtype=dtype) for n in (158, 128))
        few, reach = gradient[:12], torch.empty(128, dtype=torch.int64)
        places = torch.empty(16, 10, dtype=torch.int64)
        name = str(dtype).removeprefix("torch.")
        found |= {
            f"by prompt, {name}": partial(score_pairs, changed, gradient, reach=reach),
            f"one layer's heads, {name}": partial(score_pairs, changed[:13], few),
            f"difference, {name}": partial(sum_pairs, changed, gradient, base=changed, reach=reach),
            f"by place, {name}": partial(score_pairs, changed, gradient, places=places, n_places=10),
        }
    return found
