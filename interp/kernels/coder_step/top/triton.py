"""Kernels that choose the k largest of every row, and the maxima of groups."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.coder_step.top.plan import plan_groups
from interp.kernels.coder_step.triton import BITS, INFINITE, INTEGERS, find_threshold, order_keys, rank_chosen
from interp.kernels.pieces import tuned

LANES = 16
"""Columns of the tile in which a row is laid out for a scan."""

# 16 to 64 bytes a thread in flight; which of them fills the memory best differs by dtype
_MAXIMA = [
    triton.Config({"BLOCK": 2048}, num_warps=4),
    triton.Config({"BLOCK": 4096}, num_warps=4),
    triton.Config({"BLOCK": 8192}, num_warps=8),
]


@tuned(_MAXIMA, key=["n_columns", "GROUP", "BITS"])
@triton.jit
def _find_maxima(
    scores,
    allowed,
    maxima,
    n_columns,
    n_groups,
    row_stride,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program writes the maxima of ``BLOCK // GROUP`` neighbouring groups of one row."""
    LEAST: tl.constexpr = -(1 << (BITS - 1))
    GROUPS: tl.constexpr = BLOCK // GROUP
    n_blocks = tl.cdiv(n_groups, GROUPS)
    row = tl.program_id(0) // n_blocks
    block = (tl.program_id(0) % n_blocks).to(tl.int64)
    first = block * BLOCK
    place = tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    there = place < tl.minimum(n_columns - first, BLOCK).to(tl.int32)
    bits = tl.load(scores + row.to(tl.int64) * row_stride + first + place, mask=there, other=0)
    if HAS_ALLOWED:
        there = there & (tl.load(allowed + first + place, mask=there, other=0) != 0)
    keys = tl.where(there, order_keys(bits, INFINITE, BITS), LEAST)
    group = tl.arange(0, GROUPS)
    largest = tl.max(keys, 1)
    left = tl.minimum(n_groups - block * GROUPS, GROUPS).to(tl.int32)
    target = maxima + row.to(tl.int64) * n_groups + block * GROUPS + group
    tl.store(target, largest.to(maxima.dtype.element_ty), mask=group < left)


@triton.jit
def _choose(
    source,
    groups,
    allowed,
    values,
    places,
    n_columns,
    k,
    row_stride,
    LINES: tl.constexpr,
    LANES: tl.constexpr,
    BITS: tl.constexpr,
    INFINITE: tl.constexpr,
    ARE_KEYS: tl.constexpr,
    IN_GROUPS: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
):
    """One program chooses in one row: among all its columns, or the members of ``k`` groups of ``LANES``."""
    LEAST: tl.constexpr = -(1 << (BITS - 1))
    row = tl.program_id(0).to(tl.int64)
    line = tl.arange(0, LINES)
    there = line < tl.cdiv(n_columns, LANES)
    if IN_GROUPS:
        there = line < k
        line = tl.load(groups + row * k + line, mask=there, other=0)
    place = line[:, None] * LANES + tl.arange(0, LANES)[None, :]
    there = there[:, None] & (place < n_columns)
    bits = tl.load(source + row * row_stride + place, mask=there, other=0)
    kept = there
    if HAS_ALLOWED:
        kept = kept & (tl.load(allowed + place, mask=there, other=0) != 0)
    if ARE_KEYS:
        keys = tl.where(kept, bits.to(tl.int32), LEAST)
    else:
        keys = tl.where(kept, order_keys(bits, INFINITE, BITS), LEAST)
    threshold = find_threshold(keys, k, BITS)
    ties = k - tl.sum((keys > threshold).to(tl.int32))
    chosen, position = rank_chosen(keys, threshold, 0, 0, ties)
    chosen = chosen & there
    tl.store(places + row * k + position, place.to(places.dtype.element_ty), mask=chosen)
    if not ARE_KEYS:
        tl.store(values + row * k + position, bits, mask=chosen)


def find_maxima(scores: Tensor, group: int, allowed: Tensor | None = None) -> Tensor:
    """Keys of the maxima [row, group] of neighbouring entries."""
    n_rows, n_columns = scores.shape
    bits, n_groups = BITS[scores.dtype], -(-n_columns // group)
    maxima = torch.empty(n_rows, n_groups, dtype=INTEGERS[bits], device=scores.device)
    _find_maxima[lambda meta: (n_rows * triton.cdiv(n_groups, meta["BLOCK"] // group),)](
        scores.view(INTEGERS[bits]),
        allowed,
        maxima,
        n_columns,
        n_groups,
        scores.stride(0),
        GROUP=group,
        BITS=bits,
        INFINITE=INFINITE[scores.dtype],
        HAS_ALLOWED=allowed is not None,
    )
    return maxima


def choose_top(scores: Tensor, k: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and places [row, k] of the largest, places rising."""
    n_rows, n_columns = scores.shape
    values = scores.new_empty(n_rows, k)
    places = torch.empty(n_rows, k, dtype=torch.long, device=scores.device)
    if not values.numel():
        return values, places
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    allowed = None if allowed is None else allowed.contiguous().view(torch.uint8)
    group = plan_groups(n_columns, k)
    assert group is not None
    bits = BITS[scores.dtype]
    source = scores.view(INTEGERS[bits])
    form = {"BITS": bits, "INFINITE": INFINITE[scores.dtype]}
    groups = None
    if group > 1:
        maxima = find_maxima(scores, group, allowed)
        groups = torch.empty(n_rows, k, dtype=torch.int32, device=scores.device)
        lines = triton.next_power_of_2(triton.cdiv(maxima.shape[1], LANES))
        _choose[(n_rows,)](
            maxima,
            None,
            None,
            None,
            groups,
            maxima.shape[1],
            k,
            maxima.stride(0),
            LINES=lines,
            LANES=LANES,
            **form,
            ARE_KEYS=True,
            IN_GROUPS=False,
            HAS_ALLOWED=False,
            num_warps=_warps_for(lines * LANES),
        )
    lanes = group if group > 1 else LANES
    lines = triton.next_power_of_2(k if group > 1 else triton.cdiv(n_columns, LANES))
    _choose[(n_rows,)](
        source,
        groups,
        allowed,
        values.view(INTEGERS[bits]),
        places,
        n_columns,
        k,
        scores.stride(0),
        LINES=lines,
        LANES=lanes,
        **form,
        ARE_KEYS=False,
        IN_GROUPS=group > 1,
        HAS_ALLOWED=allowed is not None,
        num_warps=_warps_for(lines * lanes),
    )
    return values, places


def _warps_for(n_keys: int) -> int:
    """16 keys a thread where there are so many: few enough registers for several programs a multiprocessor."""
    return min(16, max(1, n_keys // 512))
