"""Every kernel compiles for a GPU that is not there, and fits its registers and shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import interp.kernels

SHARED = 232448
"""Bytes of shared memory that one program may have on an H100."""

SPILLED = 64
"""Bytes of a thread's registers in local memory that one program may have; what larger tiles spill is hundreds."""

OPERATIONS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/launches.py"))


def test_every_kernel_has_launches() -> None:
    rooms = {
        path.name for path in Path(interp.kernels.__file__).parent.iterdir() if [*path.rglob("triton.py")]
    }
    assert rooms == set(OPERATIONS)


@pytest.mark.triton
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_compile_to_machine_code_almost_without_spilling(operation: str, root: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, root / "tests" / "kernel_compilation.py", operation],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
    )
    assert not done.returncode, done.stderr[-4000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert kernels, "no kernel was launched"
    for kernel in kernels:
        assert kernel["shared"] <= SHARED, kernel
        assert kernel["spilled"] <= SPILLED, kernel
        assert kernel["registers"], kernel
    again = [kernel["name"] for kernel in kernels if kernel["launch"] == "any size"]
    assert len(again) == len(set(again)), f"compiled for single sizes: {again}"
