"""One kernel at one shape: what it is compared with, and what it must move and compute at least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = Mapping[str, Any]
Computation = Callable[[Inputs], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class KernelCase:
    """A benchmark case; every ``interp.bench.kernel_cases.<op>`` gives a list of them.

    ``make`` draws fresh random inputs on a device, from a generator of that device (:func:`draw_inputs`) or of the CPU.
    """

    op: str
    """Folder of the kernel: ``inject``, ``prefix_attention`` ..."""
    name: str
    """What of it: ``forward``, ``backward``, ``select top-k`` ..."""
    shape: Mapping[str, int]
    """Sizes by the names of their axes."""
    dtype: torch.dtype
    make: Callable[[torch.device, torch.Generator], Inputs]
    kernel: Computation
    """Through the dispatcher, as the rooms above call it."""
    eager: Computation
    """The same in PyTorch, as somebody without the kernel would write it well; also what is compiled."""
    n_bytes: int
    """Fewest bytes that must move through the device's memory: inputs read once, outputs written once."""
    n_flops: int
    """Fewest floating-point operations."""
    tolerance: float
    """Largest length of the error over the length of the truth, which is ``eager`` in fp64."""
    peers: Mapping[str, Computation] = field(default_factory=dict)
    """Further implementations, by the names under which they are reported."""
    compiles: bool = True
    """Whether ``torch.compile(eager)`` is a fair rival (no data-dependent shapes in it)."""


def draw_inputs(case: KernelCase, device: torch.device, seed: int) -> Inputs:
    """Inputs drawn on the device itself: a CPU takes minutes for the numbers of all cases.

    ``make`` names no device when it draws, so that numbers come where its generator is. One that does draws on the CPU.
    """
    try:
        with device:
            return case.make(device, torch.Generator(device).manual_seed(seed))
    except torch.OutOfMemoryError:
        raise
    # tensors of two devices, or a generator of another
    except (RuntimeError, TypeError):
        return case.make(device, torch.Generator().manual_seed(seed))
