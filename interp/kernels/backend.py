"""Whether an operation runs as a Triton kernel or as its PyTorch reference."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
from torch import Tensor

from interp.errors import KernelError

KernelChoice = Literal["auto", "triton", "reference"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""What kernels read and write; fp64 is the reference's."""

OLDEST_CARD = (8, 0)
"""Compute capability: products in bf16 and TF32 came with Ampere."""
OLDEST_TRITON = (3, 4)
"""The first whose histograms take a mask, and the oldest for which every kernel was compiled."""


def _find_triton() -> tuple[int, ...] | None:
    for name in ("triton", "pytorch-triton"):
        try:
            return tuple(int(part) for part in version(name).split(".")[:2])
        except PackageNotFoundError:
            continue
    # built by hand
    return OLDEST_TRITON if importlib.util.find_spec("triton") else None


_TRITON = _find_triton()
_log = logging.getLogger(__name__)
_choice: list[KernelChoice] = ["auto"]
_said: set[tuple[str, str]] = set()


class KernelFallbackWarning(UserWarning):
    """An operation on a GPU runs as plain PyTorch, slower than its kernel; said once for each reason."""


@contextmanager
def use_kernels(choice: KernelChoice) -> Iterator[None]:
    """Inside, operations run as ``"triton"`` kernels, as their ``"reference"``, or as suits (``"auto"``).

    With ``"triton"`` an operation that cannot run as a kernel raises :class:`KernelError` instead of falling back;
    on a CPU it runs in Triton's interpreter, if the process was started with ``TRITON_INTERPRET=1``: for tests,
    thousands of times slower than the reference.
    """
    if choice not in ("auto", "triton", "reference"):
        raise KernelError(f"kernels are 'auto', 'triton' or 'reference'; got {choice!r}.")
    _choice.append(choice)
    try:
        yield
    finally:
        _choice.pop()


def kernel_runs(
    operation: str,
    tensors: Sequence[Tensor | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    refusal: str = "",
) -> bool:
    """Whether an operation on these tensors runs as its kernel; why not is said once.

    ``dtypes`` holds for floating-point tensors. ``refusal`` names what else stands against it, if anything does.
    """
    choice = _choice[-1]
    if choice == "reference":
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    reason = _reason_against(given, dtypes) or refusal
    on_cpu = given[0].device.type == "cpu"
    if choice == "triton":
        if not reason and on_cpu and not is_interpreted():
            reason = "on a CPU kernels run in Triton's interpreter only: start Python with TRITON_INTERPRET=1"
        if reason:
            raise KernelError(f"{operation}: no kernel runs, {reason}.")
        return True
    if on_cpu or reason:
        _say_once(operation, reason or "its tensors are on a CPU", on_cpu)
        return False
    return True


def _reason_against(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> str:
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        return f"tensors are on several devices: {', '.join(sorted(map(str, devices)))}"
    device = next(iter(devices))
    if device.type not in ("cuda", "cpu"):
        return f"device {device.type!r} is not CUDA"
    # Triton launches on the current device, whatever its pointers point to
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        return (
            f"its tensors are on {device}, not the current device: call torch.cuda.set_device({device.index})"
        )
    if device.type == "cuda" and (reason := _reason_against_card(device)):
        return reason
    if not has_triton():
        return "Triton is not installed (pip install 'interp[gpu]')"
    if _TRITON is not None and _TRITON < OLDEST_TRITON:
        found, oldest = (".".join(map(str, release)) for release in (_TRITON, OLDEST_TRITON))
        return f"Triton {found} is older than {oldest} (pip install -U 'interp[gpu]')"
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in dtypes:
            return f"dtype {tensor.dtype} is not covered ({', '.join(map(str, dtypes))})"
    return ""


def _reason_against_card(device: torch.device) -> str:
    if torch.version.hip is not None:
        return "kernels were written and compiled for NVIDIA's GPUs only"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CARD:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST_CARD))
        return f"{device} has compute capability {found}, and kernels need {oldest} (bf16 and TF32)"
    return ""


def has_triton() -> bool:
    """Whether Triton can be imported."""
    return _TRITON is not None


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which is settled when they are first imported."""
    return has_triton() and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _say_once(operation: str, reason: str, expected: bool) -> None:
    if torch.compiler.is_compiling() or (operation, reason) in _said:
        return
    _said.add((operation, reason))
    if expected:
        _log.info("%s runs as plain PyTorch: %s", operation, reason)
    else:
        warnings.warn(
            f"{operation} runs as plain PyTorch, slower than its kernel: {reason}.",
            KernelFallbackWarning,
            stacklevel=4,
        )
