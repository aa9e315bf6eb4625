"""Change times gradient, added up over entries or over columns in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import tuned

_PROGRAMS = 1024
"""About eight for each multiprocessor of an H100."""
_LEAST_COLUMNS = 32
"""Of a program that adds up a part of a strip."""

_TILES = [
    triton.Config({"TILE": 2048}, num_warps=4),  # 16 entries a thread, all loads of a tile in flight
    triton.Config({"TILE": 1024}, num_warps=4),  # fewer registers, more programs at once
    triton.Config({"TILE": 4096}, num_warps=8),  # fewer programs, for very many rows
]
_STRIPS = [
    triton.Config({"BLOCK_P": 8, "BLOCK_D": 256}, num_warps=4),
    triton.Config({"BLOCK_P": 16, "BLOCK_D": 128}, num_warps=4),  # more programs where d is small
    triton.Config({"BLOCK_P": 4, "BLOCK_D": 512}, num_warps=4),  # longer runs of memory
]


@triton.jit
def _product(
    source, base, gradient, weights, at_source, at_base, at_gradient, inside, point_stride, n_points, zero
):
    """Change times weighted gradient of a tile in fp32, 0 where not ``inside``; ``zero`` has its shape."""
    change = zero
    if source is not None:
        change += tl.load(source + at_source, mask=inside, other=0.0).to(tl.float32)
    if base is not None:
        change -= tl.load(base + at_base, mask=inside, other=0.0).to(tl.float32)
    if weights is None:
        mean = tl.load(gradient + at_gradient, mask=inside, other=0.0).to(tl.float32)
    else:
        mean = zero
        for point in range(n_points):
            value = tl.load(gradient + at_gradient, mask=inside, other=0.0).to(tl.float32)
            mean += tl.load(weights + point) * value
            at_gradient += point_stride
    return change * mean


@tuned(_TILES, key=["d", "n_points"])
@triton.jit
def _rows(
    out,
    source,
    base,
    gradient,
    weights,
    mask,
    n_rows,
    n_1,
    n_2,
    d,
    n_points,
    point_stride,
    source_0,
    source_1,
    source_2,
    source_d,
    base_0,
    base_1,
    base_2,
    base_d,
    gradient_0,
    gradient_1,
    gradient_2,
    gradient_d,
    mask_0,
    mask_1,
    mask_2,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    BLOCK_R: tl.constexpr = TILE // BLOCK_D
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = row < n_rows
    i_0 = (row // (n_1 * n_2)).to(tl.int64)
    i_1 = (row // n_2 % n_1).to(tl.int64)
    i_2 = (row % n_2).to(tl.int64)
    counts = live
    if mask is not None:
        counts = tl.load(mask + (i_0 * mask_0 + i_1 * mask_1 + i_2 * mask_2), mask=live, other=0) != 0
    at_source = (i_0 * source_0 + i_1 * source_1 + i_2 * source_2)[:, None]
    at_base = (i_0 * base_0 + i_1 * base_1 + i_2 * base_2)[:, None]
    at_gradient = (i_0 * gradient_0 + i_1 * gradient_1 + i_2 * gradient_2)[:, None]
    zero = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    total = zero
    for start in range(0, d, BLOCK_D):
        k = (start + tl.arange(0, BLOCK_D))[None, :].to(tl.int64)
        total += _product(
            source,
            base,
            gradient,
            weights,
            at_source + k * source_d,
            at_base + k * base_d,
            at_gradient + k * gradient_d,
            counts[:, None] & (k < d),
            point_stride,
            n_points,
            zero,
        )
    tl.store(out + row, tl.sum(total, 1), mask=live)


@tuned(_TILES, key=["d", "n_points"])
@triton.jit
def _columns(
    out,
    source,
    base,
    gradient,
    weights,
    columns,
    n_rows,
    n_batch,
    n,
    d,
    n_points,
    point_stride,
    source_b,
    source_p,
    source_n,
    source_d,
    base_b,
    base_p,
    base_n,
    base_d,
    gradient_b,
    gradient_p,
    gradient_n,
    gradient_d,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    BLOCK_R: tl.constexpr = TILE // BLOCK_D
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = row < n_rows
    p = tl.load(columns + row // n, mask=live, other=-1).to(tl.int64)
    b = (row // n % n_batch).to(tl.int64)
    i = (row % n).to(tl.int64)
    k = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :].to(tl.int64)
    found = _product(
        source,
        base,
        gradient,
        weights,
        (b * source_b + p * source_p + i * source_n)[:, None] + k * source_d,
        (b * base_b + p * base_p + i * base_n)[:, None] + k * base_d,
        (b * gradient_b + p * gradient_p + i * gradient_n)[:, None] + k * gradient_d,
        (p >= 0)[:, None] & (k < d),
        point_stride,
        n_points,
        tl.zeros([BLOCK_R, BLOCK_D], tl.float32),
    )
    tl.store(out + row.to(tl.int64)[:, None] * d + k, found, mask=live[:, None] & (k < d))


@tuned(_STRIPS, key=["d", "n_points"])
@triton.jit
def _strips(
    out,
    source,
    base,
    gradient,
    weights,
    sets,
    n_batch,
    n_pos,
    n,
    d,
    n_points,
    n_each,
    point_stride,
    source_b,
    source_p,
    source_n,
    source_d,
    base_b,
    base_p,
    base_n,
    base_d,
    gradient_b,
    gradient_p,
    gradient_n,
    gradient_d,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    n_blocks = tl.cdiv(d, BLOCK_D)
    strip = tl.program_id(0) // n_blocks
    k = (tl.program_id(0) % n_blocks * BLOCK_D + tl.arange(0, BLOCK_D))[None, :].to(tl.int64)
    i = (strip % n).to(tl.int64)
    of_set = (strip // n).to(tl.int64)
    b = of_set % n_batch
    first = tl.program_id(1) * n_each
    last = tl.minimum(first + n_each, n_pos)
    zero = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    total = zero
    for start in range(first, last, BLOCK_P):
        p = (start + tl.arange(0, BLOCK_P)).to(tl.int64)
        counts = p < last
        if sets is not None:
            counts = tl.load(sets + of_set * n_pos + p, mask=counts, other=0) != 0
        p = p[:, None]
        total += _product(
            source,
            base,
            gradient,
            weights,
            b * source_b + p * source_p + i * source_n + k * source_d,
            b * base_b + p * base_p + i * base_n + k * base_d,
            b * gradient_b + p * gradient_p + i * gradient_n + k * gradient_d,
            counts[:, None] & (k < d),
            point_stride,
            n_points,
            zero,
        )
    n_strips = tl.num_programs(0) // n_blocks
    place = (tl.program_id(1).to(tl.int64) * n_strips + strip) * d
    tl.store(out + place + k, tl.sum(total, 0)[None, :], mask=k < d)


def launch_rows(
    source: Tensor | None, base: Tensor | None, gradient: Tensor, weights: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Sums over the last axis, [*rest] in fp32; ``gradient`` has its points in front where there are weights."""
    rest, d = gradient.shape[int(weights is not None) : -1], gradient.shape[-1]
    out = torch.empty(rest, dtype=torch.float32, device=gradient.device)
    if not out.numel():
        return out
    strides = [
        None if tensor is None else tensor.stride()[start : start + len(rest)]
        for tensor, start in ((source, 0), (base, 0), (gradient, int(weights is not None)), (mask, 0))
    ]
    sizes, (of_source, of_base, of_gradient, of_mask) = _join_axes(rest, strides)
    d_source, d_base = (0 if tensor is None else tensor.stride(-1) for tensor in (source, base))
    block = min(1024, triton.next_power_of_2(max(1, d)))
    _rows[lambda meta: (triton.cdiv(out.numel(), meta["TILE"] // block),)](
        out,
        source,
        base,
        gradient,
        weights,
        mask,
        out.numel(),
        *sizes[1:],
        d,
        *_points(gradient, weights),
        *of_source,
        d_source,
        *of_base,
        d_base,
        *of_gradient,
        gradient.stride(-1),
        *of_mask,
        BLOCK_D=block,
    )
    return out


def launch_columns(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    columns: Tensor,
) -> Tensor:
    """Products at one column each, [where, batch, n, d] in fp32; 0 at column -1."""
    (n_where, n_batch), (n, d) = columns.shape, gradient.shape[-2:]
    out = torch.empty(n_where, n_batch, n, d, dtype=torch.float32, device=gradient.device)
    if not out.numel():
        return out
    n_rows, block = n_where * n_batch * n, min(1024, triton.next_power_of_2(d))
    _columns[lambda meta: (triton.cdiv(n_rows, meta["TILE"] // block), triton.cdiv(d, block))](
        out,
        source,
        base,
        gradient,
        weights,
        columns.contiguous(),
        n_rows,
        n_batch,
        n,
        d,
        *_points(gradient, weights),
        *_strides(source),
        *_strides(base),
        *_strides(gradient),
        BLOCK_D=block,
    )
    return out


def launch_strips(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    sets: Tensor | None,
) -> Tensor:
    """Sums over each set of columns, [where, batch, n, d] in fp32; over all of them without ``sets``."""
    n_batch, n_pos, n, d = gradient.shape[-4:]
    n_where = 1 if sets is None else len(sets)
    strips = n_where * n_batch * n
    # a function of shapes alone: the same inputs are always added up in the same order
    programs = strips * triton.cdiv(d, 256)
    n_splits = min(triton.cdiv(_PROGRAMS, max(1, programs)), triton.cdiv(n_pos, _LEAST_COLUMNS))
    n_each = triton.cdiv(max(1, n_pos), max(1, n_splits))
    n_splits = triton.cdiv(max(1, n_pos), n_each)
    out = torch.empty(n_splits, n_where, n_batch, n, d, dtype=torch.float32, device=gradient.device)
    if not out.numel():
        return out.sum(0)
    _strips[lambda meta: (strips * triton.cdiv(d, meta["BLOCK_D"]), n_splits)](
        out,
        source,
        base,
        gradient,
        weights,
        None if sets is None else sets.contiguous(),
        n_batch,
        n_pos,
        n,
        d,
        _points(gradient, weights)[0],
        n_each,
        _points(gradient, weights)[1],
        *_strides(source),
        *_strides(base),
        *_strides(gradient),
    )
    return out.squeeze(0) if n_splits == 1 else out.sum(0)


def _points(gradient: Tensor, weights: Tensor | None) -> tuple[int, int]:
    """How many points, and how far apart they lie."""
    return (1, 0) if weights is None else (len(weights), gradient.stride(0))


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if tensor is None else tensor.stride()[-4:]


def _join_axes(
    shape: Sequence[int], strides: Sequence[Sequence[int] | None]
) -> tuple[list[int], list[list[int]]]:
    """At most three axes as exactly three; those that lie one in the other in every tensor become one."""
    sizes: list[int] = []
    joined: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        steps = [0 if stride is None else stride[axis] for stride in strides]
        if sizes and all(found[-1] == step * size for found, step in zip(joined, steps, strict=True)):
            sizes[-1] *= size
            for found, step in zip(joined, steps, strict=True):
                found[-1] = step
        else:
            sizes.append(size)
            for found, step in zip(joined, steps, strict=True):
                found.append(step)
    missing = 3 - len(sizes)
    return [1] * missing + sizes, [[0] * missing + found for found in joined]
