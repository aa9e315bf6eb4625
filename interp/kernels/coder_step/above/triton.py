"""Kernels that mark entries above a limit, and collect them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import tuned

BLOCK = 4096
"""Columns that a program marks."""
PART = 8
"""Marked blocks that a program collects from."""

# a block in the registers of few warps, or in twice as many that each wait less for memory
_MARK = [triton.Config({}, num_warps=8), triton.Config({}, num_warps=16)]


@tuned(_MARK, key=["n_columns"])
@triton.jit
def _mark(scores, limits, words, counts, n_columns, n_blocks, row_stride, BLOCK: tl.constexpr):
    """Bits and their number, for one block of one row."""
    row = (tl.program_id(0) // n_blocks).to(tl.int64)
    block = tl.program_id(0) % n_blocks
    word = tl.arange(0, BLOCK // 32)
    bit = tl.arange(0, 32)
    column = block * BLOCK + word[:, None] * 32 + bit[None, :]
    there = column < n_columns
    score = tl.load(scores + row * row_stride + column, mask=there, other=0).to(tl.float32)
    limit = tl.load(limits + column, mask=there, other=0).to(tl.float32)
    kept = (there & (score > limit)).to(tl.int32)
    # by way of 64 bits, to which the interpreter widens sums without saying so
    packed = tl.sum(kept << bit[None, :], 1).to(tl.int64).to(tl.int32)
    tl.store(words + tl.program_id(0).to(tl.int64) * (BLOCK // 32) + word, packed)
    tl.store(counts + tl.program_id(0), tl.sum(kept).to(tl.int64).to(tl.int32))


@triton.jit
def _count_bits(word):
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def _collect(
    scores,
    words,
    ends,
    values,
    latents,
    n_parts,
    n_blocks,
    row_stride,
    PART: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Values and columns of what ``PART`` blocks of one row keep, after what is kept before them.

    A thread takes the bits of its word one after another: few are set.
    """
    row = (tl.program_id(0) // n_parts).to(tl.int64)
    first = (tl.program_id(0) % n_parts) * PART
    block = row * n_blocks + first
    begin = tl.where(block > 0, tl.load(ends + tl.maximum(block - 1, 0)), 0)
    number = tl.arange(0, PART * WORDS)
    there = number < (n_blocks - first) * WORDS
    word = tl.load(words + block * WORDS + number, mask=there, other=0).to(tl.uint32, bitcast=True)
    counts = _count_bits(word)
    position = begin + tl.cumsum(counts, 0) - counts
    column = (first * WORDS + number) * 32
    for _ in range(tl.max(counts)):
        left = word & (word - 1)
        found = column + _count_bits((word ^ left) - 1)
        kept = word != 0
        tl.store(values + position, tl.load(scores + row * row_stride + found, mask=kept), mask=kept)
        tl.store(latents + position, found.to(tl.int64), mask=kept)
        position += 1
        word = left


def mark_above(scores: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """A bit for every entry, block by block, and how many there are up to each block's end."""
    n_rows, n_columns = scores.shape
    n_blocks = triton.cdiv(n_columns, BLOCK)
    n = n_rows * n_blocks
    words = torch.empty(n, BLOCK // 32, dtype=torch.int32, device=scores.device)
    counts = torch.empty(n, dtype=torch.int32, device=scores.device)
    _mark[(n,)](scores, limits, words, counts, n_columns, n_blocks, scores.stride(0), BLOCK=BLOCK)
    return words, counts.cumsum(0)


def collect_marked(scores: Tensor, words: Tensor, ends: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the ``total`` marked entries."""
    n_columns = scores.shape[1]
    values = scores.new_empty(total)
    latents = torch.empty(total, dtype=torch.long, device=scores.device)
    n_blocks = triton.cdiv(n_columns, BLOCK)
    n_parts = triton.cdiv(n_blocks, PART)
    _collect[(len(ends) // n_blocks * n_parts,)](
        scores,
        words,
        ends,
        values,
        latents,
        n_parts,
        n_blocks,
        scores.stride(0),
        PART=PART,
        WORDS=BLOCK // 32,
        num_warps=4,
    )
    return values, latents


def collect_above(scores: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, columns, and where each row begins."""
    n_rows, n_columns = scores.shape
    starts = torch.zeros(n_rows + 1, dtype=torch.long, device=scores.device)
    if not scores.numel():
        return scores.new_empty(0), starts.new_empty(0), starts
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    words, ends = mark_above(scores, limits.contiguous())
    n_blocks = triton.cdiv(n_columns, BLOCK)
    starts[1:] = ends[n_blocks - 1 :: n_blocks]
    # the one wait for the device
    return *collect_marked(scores, words, ends, int(ends[-1])), starts
