"""Launches of every kernel at the sizes it is made for, to be compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp.kernels.attribute import attribute_rows, attribute_units

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def launches() -> dict[str, Callable[[], object]]:
    """Each dtype, with everything given and with as little as may be, on layouts that engines hand over."""
    found: dict[str, Callable[[], object]] = {}
    weights, columns = torch.zeros(4), torch.zeros(2, 2, dtype=torch.long)
    for dtype in DTYPES:
        wide = torch.zeros(2, 64, 768, dtype=dtype)
        heads = torch.zeros(2, 64, 12, 64, dtype=dtype)
        points = torch.zeros(4, 2, 64, 768, dtype=dtype)
        mask, sets = torch.zeros(2, 64, dtype=torch.bool), torch.zeros(3, 2, 64, dtype=torch.bool)
        found |= {
            f"rows {dtype}": lambda wide=wide: attribute_rows(wide, wide, wide),
            f"rows of heads {dtype}": lambda heads=heads, mask=mask: attribute_rows(
                heads, heads, heads[:, :1].expand_as(heads), mask=mask[..., None]
            ),
            f"rows along a path {dtype}": lambda wide=wide, points=points: attribute_rows(
                None, wide, points, weights=weights
            ),
            f"columns {dtype}": lambda wide=wide: attribute_units(wide, wide, wide, columns=columns),
            f"columns along a path {dtype}": lambda wide=wide, points=points: attribute_units(
                wide, None, points, weights=weights, columns=columns
            ),
            f"strips {dtype}": lambda wide=wide: attribute_units(wide, wide, wide),
            f"strips along a path {dtype}": lambda wide=wide, points=points, sets=sets: attribute_units(
                wide, wide, points, weights=weights, sets=sets
            ),
        }
    found["odd"] = lambda: attribute_rows(_odd(), _odd(), _odd())
    return found


def _odd() -> Tensor:
    return torch.zeros(3, 5, 37)
