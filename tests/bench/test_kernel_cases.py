"""Every kernel's benchmark cases: right in the interpreter, told apart, and counted without boasting."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.bench import kernel_cases
from interp.bench.kernel_gate import as_tuple
from interp.bench.kernels import DTYPES, KernelsPlan, refuse_wrong, run_kernels
from interp.kernels import use_kernels

pytestmark = pytest.mark.interpreter
CPU = torch.device("cpu")
FILES = sorted(module.name for module in pkgutil.iter_modules(kernel_cases.__path__))


def cases_of(file: str, quick: bool) -> list[Any]:
    module = __import__(f"{kernel_cases.__name__}.{file}", fromlist=["list_cases"])
    return list(module.list_cases(quick=quick))


@pytest.mark.parametrize("file", FILES)
def test_quick_cases_are_right(file):
    report = run_kernels(KernelsPlan.quick(), CPU, list_cases=lambda quick: cases_of(file, quick))
    refuse_wrong(report.rows)
    assert not any(row.remark for row in report.rows)


@pytest.mark.parametrize("file", FILES)
def test_cases_are_told_apart(file):
    cases = [*cases_of(file, True), *cases_of(file, False)]
    assert cases_of(file, True) and cases_of(file, False)
    places = [(case.op, case.name, tuple(case.shape.items()), case.dtype) for case in cases]
    assert len(set(places)) == len(places)
    for case in cases:
        assert case.dtype in DTYPES.values() and case.n_bytes > 0 and case.n_flops >= 0
        assert 0 < case.tolerance < 0.1
        assert not {"kernel", "eager", "compiled"} & set(case.peers)


@pytest.mark.parametrize("file", FILES)
def test_no_more_bytes_are_claimed_than_inputs_and_outputs_have(file):
    for case in cases_of(file, True):
        inputs = case.make(CPU, torch.Generator().manual_seed(0))
        with use_kernels("reference"):
            found = as_tuple(case.eager(inputs))
        there = {(one.data_ptr(), one.numel()): one.nbytes for one in (*tensors_in(inputs), *found)}
        # what comes between forward and backward is read once more, and what the forward kept
        times = 2 if "backward" in case.name or "step" in case.name else 1.01
        assert case.n_bytes <= times * sum(there.values()), case.name


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
