"""What kernels share: matrix products in full precision, functions Triton lacks, and tuning.

Imported by ``triton`` modules only, for it needs Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.backend import is_interpreted

INTERPRETED = is_interpreted()


def tuned(configs: Sequence[Any], key: Sequence[str], **options: Any) -> Callable[[Any], Any]:
    """``triton.autotune``, which measures each config once for each ``key``; interpreted, the first config alone."""
    chosen = list(configs[:1] if INTERPRETED else configs)
    decorator: Callable[[Any], Any] = triton.autotune(chosen, key=list(key), **options)
    return decorator


def block_of(n: int, least: int = 16, most: int = 128) -> int:
    """A power of two that holds ``n``, within bounds."""
    return int(min(most, max(least, triton.next_power_of_2(max(1, n)))))


def needs_widening(dtype: torch.dtype) -> bool:
    """Whether products of this dtype are taken in fp32: the interpreter multiplies bf16 wrongly."""
    return INTERPRETED and dtype == torch.bfloat16


def with_whole_vectors(x: Tensor) -> Tensor:
    """``x`` itself where its last axis lies in one piece, as kernels read it; else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@triton.jit
def dot(a, b, acc, WIDEN: tl.constexpr):
    """``acc + a @ b`` in fp32; fp32 inputs as three TF32 products each, within a few roundings of fp32 on the tensor
    cores (plain FMA spills registers). ``WIDEN``: see :func:`needs_widening`."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="tf32x3")


@triton.jit
def tanh(x):
    """Hyperbolic tangent of fp32, exact to rounding also near 0 and at any size."""
    e = tl.exp(-2.0 * tl.abs(x))
    big = (1.0 - e) / (1.0 + e)
    square = x * x
    small = tl.abs(x) * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * 17.0 / 315.0)))
    return tl.where(x < 0.0, -1.0, 1.0) * tl.where(tl.abs(x) < 0.1, small, big)
