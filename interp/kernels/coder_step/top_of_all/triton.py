"""Kernels that choose the n largest of a list."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.coder_step.top.triton import find_maxima
from interp.kernels.coder_step.top_of_all.plan import plan_groups
from interp.kernels.coder_step.triton import BITS, INFINITE, INTEGERS, order_keys, rank_chosen

TILE = 4096
"""Keys that a program looks at together."""
LANES = 64
"""Columns of a tile, where they are not groups."""
MOST_PROGRAMS = 1056
"""Eight a multiprocessor of an H100; each adds its digits up once."""


@triton.jit
def _descend(digits, wanted, PASSES: tl.constexpr):
    """The first ``PASSES`` digits of the threshold, and how many of those that begin so are chosen."""
    digit = tl.arange(0, 256)
    prefix = 0
    left = wanted
    for number in tl.static_range(PASSES):
        counts = tl.load(digits + number * 256 + digit)
        or_more = tl.cumsum(counts, 0, reverse=True)
        found = tl.sum((or_more >= left).to(tl.int32)) - 1
        left = left - tl.sum(tl.where(digit > found, counts, 0))
        # the first digit carries the sign
        prefix = found - 128 if number == 0 else prefix * 256 + found
    return prefix, left


@triton.jit
def _load_keys(
    source,
    groups,
    tile,
    n_items,
    n_members,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    ARE_KEYS: tl.constexpr,
    IN_GROUPS: tl.constexpr,
):
    """Keys [line, lane] of a tile, the place at which each line begins, and whether they are there."""
    LEAST: tl.constexpr = -(1 << (BITS - 1))
    LINES: tl.constexpr = TILE // LANES
    line = tl.arange(0, LINES).to(tl.int64) + tile * LINES
    if IN_GROUPS:
        line = tl.load(groups + line, mask=line < n_members, other=n_items)
    begin = line * LANES
    # a line that is not there begins further behind the end than 32 bits count
    left = tl.maximum(tl.minimum(n_items - begin, LANES), 0).to(tl.int32)
    lane = tl.arange(0, LANES)[None, :]
    there = lane < left[:, None]
    bits = tl.load((source + begin)[:, None] + lane, mask=there, other=0)
    keys = bits.to(tl.int32) if ARE_KEYS else order_keys(bits, INFINITE, BITS)
    return tl.where(there, keys, LEAST), begin, there


@triton.jit
def _count_digits(
    source,
    groups,
    digits,
    n_items,
    n_members,
    n_tiles,
    wanted,
    PASS: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    ARE_KEYS: tl.constexpr,
    IN_GROUPS: tl.constexpr,
):
    """Adds up how often each next digit occurs among keys that begin with the digits found so far."""
    SHIFT: tl.constexpr = BITS - 8 - 8 * PASS
    prefix, _left = _descend(digits, wanted, PASS)
    counts = tl.zeros([256], tl.int32)
    for tile in range(tl.program_id(0), n_tiles, tl.num_programs(0)):
        keys, _begin, there = _load_keys(
            source, groups, tile, n_items, n_members, TILE, LANES, BITS, INFINITE, ARE_KEYS, IN_GROUPS
        )
        if PASS == 0:
            digit = (keys >> SHIFT) + 128
        else:
            there = there & ((keys >> (SHIFT + 8)) == prefix)
            digit = (keys >> SHIFT) & 255
        counts += tl.histogram(tl.reshape(digit, [TILE]), 256, mask=tl.reshape(there, [TILE]))
    digit = tl.arange(0, 256)
    tl.atomic_add(digits + PASS * 256 + digit, counts, mask=counts > 0)


@triton.jit
def _count_chosen(
    source,
    groups,
    digits,
    counts,
    n_items,
    n_members,
    n_tiles,
    wanted,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    ARE_KEYS: tl.constexpr,
    IN_GROUPS: tl.constexpr,
):
    """How many keys of each tile are above the threshold, and how many equal it."""
    threshold, _ties = _descend(digits, wanted, BITS // 8)
    tile = tl.program_id(0)
    keys, _begin, there = _load_keys(
        source, groups, tile, n_items, n_members, TILE, LANES, BITS, INFINITE, ARE_KEYS, IN_GROUPS
    )
    tl.store(counts + tile, tl.sum((there & (keys > threshold)).to(tl.int32)))
    tl.store(counts + n_tiles + tile, tl.sum((there & (keys == threshold)).to(tl.int32)))


@triton.jit
def _write_chosen(
    source,
    groups,
    digits,
    counted,
    places,
    n_items,
    n_members,
    n_tiles,
    wanted,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    ARE_KEYS: tl.constexpr,
    IN_GROUPS: tl.constexpr,
):
    """Places of what is chosen, rising; ``counted`` are the counts' sums up to each tile, itself included."""
    threshold, ties = _descend(digits, wanted, BITS // 8)
    tile = tl.program_id(0)
    before = tl.maximum(tile - 1, 0)
    above = tl.where(tile > 0, tl.load(counted + before), 0)
    all_equal = tl.where(tile > 0, tl.load(counted + n_tiles + before), 0)
    has_above = tl.load(counted + tile) > above
    # of many equal keys, a matrix of zeros, only the first count
    equal = tl.minimum(all_equal, ties).to(tl.int32)
    has_equal = (tl.load(counted + n_tiles + tile) > all_equal) & (all_equal < ties)
    # most tiles of a sparse choice hold none of it
    if has_above | has_equal:
        keys, begin, there = _load_keys(
            source, groups, tile, n_items, n_members, TILE, LANES, BITS, INFINITE, ARE_KEYS, IN_GROUPS
        )
        chosen, position = rank_chosen(keys, threshold, above.to(tl.int32), equal, ties)
        place = begin[:, None] + tl.arange(0, LANES)[None, :]
        tl.store(places + position, place, mask=chosen & there)


def _choose(source: Tensor, n: int, form: dict[str, int], groups: Tensor | None, lanes: int) -> Tensor:
    """Rising places of the n largest in a list, or in chosen groups of it."""
    n_items, n_members = source.numel(), 0 if groups is None else len(groups)
    lines = -(-n_items // lanes) if groups is None else n_members
    n_tiles = triton.cdiv(lines, TILE // lanes)
    passes = form["BITS"] // 8
    digits = torch.zeros(passes * 256, dtype=torch.int32, device=source.device)
    options = form | {"TILE": TILE, "LANES": lanes, "IN_GROUPS": groups is not None}
    for number in range(passes):
        _count_digits[(min(n_tiles, MOST_PROGRAMS),)](
            source, groups, digits, n_items, n_members, n_tiles, n, PASS=number, **options, num_warps=8
        )
    counts = torch.empty(2, n_tiles, dtype=torch.int32, device=source.device)
    _count_chosen[(n_tiles,)](
        source, groups, digits, counts, n_items, n_members, n_tiles, n, **options, num_warps=8
    )
    counted = counts.cumsum(1)
    places = torch.empty(n, dtype=torch.long, device=source.device)
    _write_chosen[(n_tiles,)](
        source, groups, digits, counted, places, n_items, n_members, n_tiles, n, **options, num_warps=16
    )
    return places


def choose_top_of_all(scores: Tensor, n: int) -> Tensor:
    """Rising places [n] of the largest entries, in the flattened matrix."""
    if not n:
        return torch.empty(0, dtype=torch.long, device=scores.device)
    flat = scores.contiguous().view(1, -1)
    bits = BITS[scores.dtype]
    form = {"BITS": bits, "INFINITE": INFINITE[scores.dtype]}
    source = flat.view(INTEGERS[bits])[0]
    group = plan_groups(flat.numel(), n)
    assert group is not None
    if group == 1:
        return _choose(source, n, form | {"ARE_KEYS": False}, None, LANES)
    groups = _choose(find_maxima(flat, group)[0], n, form | {"ARE_KEYS": True}, None, LANES)
    return _choose(source, n, form | {"ARE_KEYS": False}, groups, group)
