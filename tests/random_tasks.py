"""Random prompt pairs of any lengths, padding and first difference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.tasks.base import PromptPairs


def random_task(
    lengths: Sequence[int], side: str, first_difference: Sequence[int], seed: int = 0
) -> PromptPairs:
    """Random prompts of these lengths; each pair agrees before its first difference (a position)."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = len(lengths), max(lengths)
    clean, other = (torch.randint(1, 53, (rows, width), generator=draw) for _ in range(2))
    column = torch.arange(width)
    n = torch.tensor(lengths)[:, None]
    mask = column < n if side == "right" else column >= width - n
    position = mask.long().cumsum(1) - 1
    differs = mask & (position >= torch.tensor(first_difference)[:, None])
    corrupted = torch.where(differs, other, clean)
    label = torch.tensor([min(1 + i, length - 1) for i, length in enumerate(lengths)])
    return PromptPairs(
        clean,
        corrupted,
        torch.randint(1, 53, (rows,), generator=draw),
        torch.zeros(rows, dtype=torch.long),
        attention_mask=None if bool(mask.all()) else mask,
        labels={"S": label},
    )
