"""Shapes at which kernels are checked and timed, one file an operation."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.bench.kernel_case import KernelCase


def list_all_cases(quick: bool = False) -> list[KernelCase]:
    """Cases of every operation: those for a GPU, or ``quick`` ones that run in Triton's interpreter in a moment."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [case for module in modules for case in module.list_cases(quick=quick)]
