"""How many neighbours share a maximum."""

from __future__ import annotations

DIRECT = 4096
"""Rows up to this long are searched as they are: they fit the registers of four warps."""
LARGEST_TILE = 16384
"""Keys that one program holds: 32 registers a thread of sixteen warps. Twice as many take 128 KiB of shared memory,
more than most GPUs have, and spill."""


def plan_groups(d_sae: int, k: int) -> int | None:
    """Entries to a group, 1 where a row is searched directly, ``None`` where no kernel covers the sizes.

    The fewest keys to search, maxima and members of chosen groups together; of equals the largest group, which
    has the fewest maxima to write and read again.
    """
    if _power(d_sae) <= DIRECT:
        return 1
    sizes: dict[int, int] = {}
    for group in (64, 32, 16):
        n_groups = -(-d_sae // group)
        maxima, members = _power(n_groups), _power(k) * group
        if n_groups >= k and max(maxima, members) <= LARGEST_TILE:
            sizes[group] = maxima + members
    if sizes:
        return min(sizes, key=lambda group: sizes[group])
    return 1 if _power(d_sae) <= LARGEST_TILE else None


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
