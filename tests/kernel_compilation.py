"""Compiles kernels for a GPU that is not there: every launch of a function, for a CUDA architecture.

Run in a process without TRITON_INTERPRET. Kernels are compiled from the arguments they are launched with, by
Triton's own compiler down to machine code; nothing runs, so outputs mean nothing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from interp.kernels import backend, pieces

_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one kernel."""

    name: str
    options: dict[str, Any]
    shared: int
    """Bytes of shared memory of a program; an H100 has 232448."""
    registers: int
    spilled: int
    """Bytes of registers that went to local memory."""


@contextmanager
def compiling_for(capability: int = 90, every_config: bool = True) -> Iterator[list[Compiled]]:
    """Inside, kernels launched under ``use_kernels("triton")`` are compiled and not run.

    All configs of a tuned kernel, or the first of them.
    """
    found: list[Compiled] = []
    seen: set[Any] = set()

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        options = {
            key: kwargs.pop(key)
            for key in ("num_warps", "num_stages", "num_ctas", "maxnreg")
            if key in kwargs
        }
        bound = dict(zip(self.arg_names, args, strict=False)) | {
            key: value for key, value in kwargs.items() if key in self.arg_names
        }
        for parameter in self.params:
            if parameter.name not in bound:
                bound[parameter.name] = parameter.default
        signature, constants, attrs = {}, {}, {}
        for parameter in self.params:
            value = bound[parameter.name]
            one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
            if parameter.is_constexpr or value is None or one:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            else:
                signature[parameter.name] = _type_of(value)
                if _is_aligned(value) and not parameter.do_not_specialize:
                    attrs[(parameter.num,)] = [["tt.divisibility", 16]]
        key = (self.fn.__name__, repr(signature), repr(constants), repr(attrs), repr(options))
        if key in seen:
            return
        seen.add(key)
        options = {name: value for name, value in options.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = ASTSource(fn=self, signature=signature, constexprs=constants, attrs=attrs)
            kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        registers, spilled = _resources(kernel.asm["ptx"], capability)
        label = {k: v for k, v in constants.items() if isinstance(v, int | bool | float | str)} | options
        found.append(Compiled(self.fn.__name__, label, kernel.metadata.shared, registers, spilled))

    def tune(self: Any, *args: Any, **kwargs: Any) -> None:
        for config in self.configs if every_config else self.configs[:1]:
            self.fn.run(*args, **kwargs, **config.all_kwargs())

    def decide(self: Any, *args: Any, **kwargs: Any) -> None:
        for name, heuristic in self.values.items():
            kwargs[name] = heuristic({**dict(zip(self.arg_names, args, strict=False)), **kwargs})
        self.fn.run(*args, **kwargs)

    assert not pieces.INTERPRETED, "start Python without TRITON_INTERPRET to compile kernels"
    before = JITFunction.run, Autotuner.run, Heuristics.run, backend.is_interpreted
    JITFunction.run, Autotuner.run, Heuristics.run = run, tune, decide
    backend.is_interpreted = lambda: True
    try:
        yield found
    finally:
        JITFunction.run, Autotuner.run, Heuristics.run, backend.is_interpreted = before


def compile_launches(
    run: Callable[[], object], capability: int = 90, every_config: bool = True
) -> list[Compiled]:
    """What the compiler says of every kernel that ``run`` launches; errors of Triton's compiler are raised."""
    with compiling_for(capability, every_config) as found, backend.use_kernels("triton"):
        run()
    return found


def _is_aligned(value: Any) -> bool:
    """Whether Triton compiles for a multiple of 16, as it does where a kernel is launched."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and not isinstance(value, bool) and value % 16 == 0


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _resources(ptx: str, capability: int) -> tuple[int, int]:
    """Registers and spilled bytes, which Triton itself learns only where it loads a kernel."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    arch = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    refused = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "kernel.ptx"
        path.write_text(ptx)
        # Triton ships two, and which of them knows the version of its PTX differs from release to release
        for name in ("ptxas", "ptxas-blackwell"):
            if not (folder / name).exists():
                continue
            command = [folder / name, "-v", f"-arch={arch}", "-o", str(path.with_suffix(".cubin")), path]
            done = subprocess.run(command, capture_output=True, text=True)
            said = done.stdout + done.stderr
            if not done.returncode:
                registers = re.search(r"Used (\d+) registers", said)
                spilled = re.search(r"(\d+) bytes spill stores", said)
                return (int(registers.group(1)) if registers else 0, int(spilled.group(1)) if spilled else 0)
            refused.append(said)
    raise RuntimeError(f"the assembler refuses a kernel: {' '.join(refused)}")


def main() -> None:
    """Compile the launches of the operations named on the command line; one line of JSON for each kernel."""
    for operation in sys.argv[1:]:
        path = Path(__file__).parent / "kernels" / operation / "launches.py"
        spec = importlib.util.spec_from_file_location(f"launches_of_{operation}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, run in module.launches().items():
            for kernel in compile_launches(run, every_config=False):
                sys.stdout.write(json.dumps({"launch": name} | dataclasses.asdict(kernel)) + "\n")


if __name__ == "__main__":
    main()
