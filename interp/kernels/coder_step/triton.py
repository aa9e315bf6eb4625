"""How kernels compare numbers: as integers in the same order, so that a threshold is found bit by bit.

A number's key is its magnitude's bits with its sign: -0 equals 0, and whatever is not a number is the largest, as
for ``torch.topk``. Keys of 16-bit dtypes have 16 bits. One key is less than that of any number: no entry.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

INFINITE = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F800000}
"""Bits of infinity."""
BITS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32}
INTEGERS = {16: torch.int16, 32: torch.int32}
"""What bits are read as, and keys are kept in."""


@triton.jit
def order_keys(bits, INFINITE: tl.constexpr, BITS: tl.constexpr):
    """Keys of numbers, from their bits."""
    LARGEST: tl.constexpr = (1 << (BITS - 1)) - 1
    bits = bits.to(tl.int32)
    magnitude = bits & LARGEST
    key = tl.where(bits < 0, -magnitude, magnitude)
    return tl.where(magnitude > INFINITE, LARGEST, key)


@triton.jit
def find_threshold(keys, k, BITS: tl.constexpr):
    """The k-th largest key of a tile, by bisection; a bit is one count over what is in the registers."""
    LEAST: tl.constexpr = -(1 << (BITS - 1))
    threshold = tl.where(tl.sum((keys >= 0).to(tl.int32)) >= k, 0, LEAST)
    step = 1 << (BITS - 2)
    for _ in range(BITS - 1):
        trial = threshold + step
        threshold = tl.where(tl.sum((keys >= trial).to(tl.int32)) >= k, trial, threshold)
        step = step >> 1
    return threshold


@triton.jit
def rank_chosen(keys, threshold, above_before, equal_before, ties):
    """Which keys of a tile [line, lane] are chosen, and where they go: all above the threshold and the first
    ``ties`` that equal it, in the order of the tile. ``before`` counts those of earlier tiles.

    Both counts share one scan, in the upper and lower half of an integer.
    """
    above = keys > threshold
    equal = keys == threshold
    packed = (above.to(tl.int32) << 16) + equal.to(tl.int32)
    totals = tl.sum(packed, 1)
    counted = tl.cumsum(packed, 1) + (tl.cumsum(totals, 0) - totals)[:, None]
    n_above = above_before + (counted >> 16)
    n_equal = equal_before + (counted & 0xFFFF)
    chosen = above | (equal & (n_equal <= ties))
    return chosen, n_above + tl.minimum(n_equal, ties) - 1
