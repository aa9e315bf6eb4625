"""Where the columns of a batch of prompts stand, and which of them see which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Positions, visibility and rotation of every column. One row stands for all where none is padded."""

    positions: Int[Tensor, "prompt pos"]
    """Position of each column: real tokens count from 0, as Hugging Face counts under padding."""
    visible: Mapping[int | None, Bool[Tensor, "prompt dest src"]]
    """Which source columns each destination attends to, by sliding window (``None``: no window)."""
    cos: Float[Tensor, "prompt pos rotary"] | None = None
    sin: Float[Tensor, "prompt pos rotary"] | None = None
    real: Bool[Tensor, "prompt pos"] | None = None
    """Which columns are no padding; ``None`` where none is."""


def find_positions(mask: Bool[Tensor, "prompt pos"]) -> Int[Tensor, "prompt pos"]:
    """Position ids of padded prompts: real tokens count from 0, padding repeats its neighbour's."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def find_visible(
    mask: Bool[Tensor, "prompt pos"], windows: set[int | None]
) -> dict[int | None, Bool[Tensor, "prompt dest src"]]:
    """Causal visibility without padding, for each sliding window."""
    column = torch.arange(mask.shape[1], device=mask.device)
    causal = column[None, :] <= column[:, None]
    found: dict[int | None, Tensor] = {}
    for window in windows:
        near = causal if window is None else causal & (column[None, :] > column[:, None] - window)
        found[window] = near[None] & mask[:, None, :]
    return found


def take_columns(
    table: Tensor, prompts: Int[Tensor, " row"], columns: Int[Tensor, "row pos"] | slice
) -> Tensor:
    """Rows' own columns of a table [prompt, pos, ...]; a table of one prompt serves all rows."""
    if isinstance(columns, slice):
        part = table[:, columns]
        return (
            part.expand(len(prompts), *part.shape[1:]) if len(table) == 1 else part.index_select(0, prompts)
        )
    rows = prompts if len(table) > 1 else torch.zeros_like(prompts)
    return table[rows[:, None], columns]
