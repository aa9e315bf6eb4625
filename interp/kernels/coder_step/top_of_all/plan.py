"""How many neighbours share a maximum, in a whole matrix."""

from __future__ import annotations

MOST = 2**31
"""Keys are counted in 32 bits."""


def plan_groups(size: int, n: int) -> int | None:
    """Entries to a group, 1 where so many are chosen that maxima spare nothing, ``None`` where there are too many to
    count."""
    for group in (64, 16):
        if 4 * n <= size // group and max(size // group, n * group) < MOST:
            return group
    return 1 if size < MOST else None
