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

OPERATIONS = sorted(path.parent.name for path in Path(interp.kernels.__file__).parent.glob("*/triton.py"))


@pytest.mark.triton
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_compile_to_machine_code_without_spilling(operation: str, root: Path) -> None:
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
        assert not kernel["spilled"], kernel
        assert kernel["registers"], kernel
