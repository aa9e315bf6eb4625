"""The gate before the clock of kernels: the same numbers as plain PyTorch in fp64, from poisoned memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.bench.kernel_case import Computation, Inputs, KernelCase
from interp.errors import KernelError
from interp.kernels import use_kernels
from interp.kernels.backend import is_interpreted

RIVALS_MAY_ROUND = 10.0
"""Plain PyTorch rounds between operations, so that its own error in half precision may be so many times a kernel's
tolerance; a larger one is no rounding, and its time says nothing."""


@dataclass(frozen=True)
class Truth:
    """What a case's numbers are, to the precision that the device had room for."""

    values: tuple[Tensor, ...]
    dtype: torch.dtype


def find_truth(case: KernelCase, inputs: Inputs) -> Truth:
    """``eager`` on the same numbers in fp64; in fp32 where fp64 does not fit and the case is in half precision.

    Raises ``torch.OutOfMemoryError`` where that does not fit either.
    """
    try:
        return _compute_wide(case, inputs, torch.float64)
    except torch.OutOfMemoryError:
        if case.dtype == torch.float32:
            raise
    free_memory()
    return _compute_wide(case, inputs, torch.float32)


def take_kernel_error(case: KernelCase, inputs: Inputs, truth: Truth) -> float:
    """Largest error of an output of the kernel, over its length; memory that it leaves unwritten holds NaN.

    Raises :class:`KernelError` where no kernel runs: falling back to PyTorch would be compared with itself.
    """
    with poisoned_memory(), use_kernels("triton"):
        if not is_interpreted():
            # the first call tunes, and into its outputs every configuration has written
            case.kernel(inputs)
        found = as_tuple(case.kernel(inputs))
    return take_largest_error(found, truth)


def take_rival_error(run: Computation, inputs: Inputs, truth: Truth) -> float:
    """The same for plain PyTorch, compiled or not, and for peers."""
    with use_kernels("reference"):
        return take_largest_error(as_tuple(run(inputs)), truth)


def take_largest_error(found: tuple[Tensor, ...], truth: Truth) -> float:
    """Length of the difference over the length of the truth, the largest of all outputs; infinite for NaN.

    Raises :class:`KernelError` for another number of outputs.
    """
    if len(found) != len(truth.values):
        raise KernelError(f"{len(found)} outputs, where PyTorch gives {len(truth.values)}.")
    return max(_relative_error(a, b) for a, b in zip(found, truth.values, strict=True))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, fresh memory holds NaN (or the largest integer), so that what a kernel leaves out is seen."""
    settings: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        settings.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            # of operations of torch around a kernel: that bits may differ
            warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = before[2]


def widen(value: Any, dtype: torch.dtype) -> Any:
    """Inputs with every floating-point tensor in another dtype, inside of tuples and dataclasses too; leaves of
    autograd stay leaves."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return value.detach().to(dtype).requires_grad_(value.requires_grad)
    if is_dataclass(value) and not isinstance(value, type):
        given = {
            field.name: widen(getattr(value, field.name), dtype) for field in fields(value) if field.init
        }
        return replace(value, **given)
    if isinstance(value, Mapping):
        return {name: widen(item, dtype) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(widen(item, dtype) for item in value)
    return value


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One output or several, as several; detached from whatever made them."""
    return tuple(one.detach() for one in ((value,) if isinstance(value, Tensor) else value))


def free_memory() -> None:
    """Give a GPU's unused memory back, after it ran out or before a large case."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _compute_wide(case: KernelCase, inputs: Inputs, dtype: torch.dtype) -> Truth:
    with use_kernels("reference"):
        return Truth(as_tuple(case.eager(widen(inputs, dtype))), dtype)


def _relative_error(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return float("inf")
    if not truth.numel():
        return 0.0
    wide = truth.dtype if truth.is_floating_point() else torch.float64
    right = truth.to(wide)
    length = max(float(torch.linalg.vector_norm(right)), 1e-30)
    error = float(torch.linalg.vector_norm(found.to(wide) - right)) / length
    # of NaN nothing is less
    return error if error >= 0 else float("inf")
