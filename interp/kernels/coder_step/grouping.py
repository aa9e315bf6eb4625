"""Grouping entries without waiting for a device to say how many there are of anything."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def list_rows(starts: Int[Tensor, " row_and_one"], n_entries: int) -> Int[Tensor, " entry"]:
    """The row of every entry, from where the entries of each row begin."""
    return torch.repeat_interleave(starts.diff(), output_size=n_entries)


def find_starts(keys: Int[Tensor, " entry"], n: int) -> Int[Tensor, " n_and_one"]:
    """Where each of the keys 0 to ``n`` begins in a rising list."""
    return torch.searchsorted(keys, torch.arange(n + 1, dtype=keys.dtype, device=keys.device))


def group_entries(
    latents: Int[Tensor, " entry"], d_sae: int
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " d_sae_and_one"]]:
    """Which entry stands at each place when sorted by latent, and where each latent begins."""
    # half the bits are half the passes of a radix sort
    narrow = latents.to(torch.int16 if d_sae < 2**15 else torch.int32)
    keys, order = narrow.sort(stable=True)
    return order, find_starts(keys.to(torch.int32), d_sae)
