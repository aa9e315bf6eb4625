"""Every kernel at every shape of :mod:`interp.bench.kernel_cases`: right first, then how near to the roof.

On a GPU each case is timed beside plain PyTorch, ``torch.compile`` of it and peers, which take turns. Elsewhere
there is nothing to time: small cases run in Triton's interpreter, and only the gate stands.

Needs PyTorch and Triton alone: ``python -m interp.bench.kernels --csv kernels.csv``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from interp.bench.device_clock import find_device
from interp.bench.kernel_bout import KernelBouts
from interp.bench.kernel_case import KernelCase
from interp.bench.kernel_cases import list_all_cases
from interp.bench.kernels_report import KernelRow, report_kernels
from interp.bench.report import Report, Say, say_nothing, write_plainly
from interp.bench.rows import append_rows, check_rows_file
from interp.bench.setting import describe_setting
from interp.errors import BenchError, InterpError, unknown_name
from interp.kernels.backend import has_triton, is_interpreted

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class KernelsPlan:
    """What to measure, and for how long."""

    ops: tuple[str, ...] = ()
    """Operations; empty for all."""
    dtypes: tuple[str, ...] = ()
    """Of inputs: float32, float16, bfloat16; empty for all."""
    is_quick: bool = False
    """Small cases for the gate, and on a GPU one real case an operation."""
    minutes: float = 5.0
    """After so many, cases that are left are listed as skipped."""
    seconds: float = 0.5
    """Of the clock, a case."""
    compiles: bool = True
    """Whether ``torch.compile`` takes part: it needs many seconds a case."""
    times: bool = True
    """Whether a GPU is timed; without, its cases are only checked, which leaves compiled kernels in Triton's cache."""
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> KernelsPlan:
        """Within a minute."""
        return cls(is_quick=True, minutes=0.8, seconds=0.2, compiles=False, seed=seed)

    def __post_init__(self) -> None:
        for name in set(self.dtypes) - set(DTYPES):
            raise BenchError(unknown_name("dtype", name, DTYPES))
        if not (self.minutes > 0 and self.seconds > 0):
            raise BenchError(f"minutes and seconds are more than 0; got {self.minutes}, {self.seconds}.")

    def choose(self, cases: Sequence[KernelCase]) -> list[KernelCase]:
        """Cases of the operations and dtypes that were asked for; operations take turns, each in its own order.

        Raises :class:`BenchError` for an operation that has none, and when none is left.
        """
        known = dict.fromkeys(case.op for case in cases)
        for name in set(self.ops) - set(known):
            raise BenchError(unknown_name("operation", name, known))
        dtypes = {DTYPES[name] for name in self.dtypes or DTYPES}
        chosen = [case for case in cases if case.op in (self.ops or known) and case.dtype in dtypes]
        if not chosen:
            raise BenchError(
                f"no case of {', '.join(self.ops) or 'any operation'} has dtype {' or '.join(self.dtypes)}."
            )
        turns = {op: [case for case in chosen if case.op == op] for op in known}
        longest = max(map(len, turns.values()))
        return [cases[i] for i in range(longest) for cases in turns.values() if i < len(cases)]


def run_kernels(
    plan: KernelsPlan,
    device: torch.device | None = None,
    say: Say = say_nothing,
    keep: Callable[[Sequence[KernelRow]], None] | None = None,
    list_cases: Callable[[bool], Sequence[KernelCase]] = list_all_cases,
) -> Report[KernelRow]:
    """Check every case of a plan, and on a GPU time it; ``keep`` gets the rows of each as soon as they are there.

    ``list_cases`` gives quick cases (``True``) or real ones. What is wrong has no times; :func:`refuse_wrong` raises
    for it, once all is reported. ``device`` is by default the GPU, where there is one. Raises :class:`BenchError`
    where no kernel can run, and for names that are none.
    """
    where = device or find_device()
    settle_interpreter(where)
    bouts = KernelBouts(where, plan.minutes, plan.seconds, plan.seed, plan.compiles)
    rows: list[KernelRow] = []
    chosen = _choose(plan, where, list_cases)
    for number, (case, is_timed) in enumerate(chosen, 1):
        sizes = " ".join(f"{name}={size}" for name, size in case.shape.items())
        say(
            f"{number} of {len(chosen)}: {case.op}, {case.name} {sizes} {str(case.dtype).removeprefix('torch.')}"
        )
        found = bouts.measure(case, is_timed)
        rows += found
        if keep is not None:
            keep(found)
    return report_kernels(rows, _describe_place(where))


def refuse_wrong(rows: Sequence[KernelRow]) -> None:
    """Raise :class:`BenchError` where a kernel did not run or its numbers are not those of plain PyTorch."""
    wrong = [row for row in rows if row.is_wrong]
    if wrong:
        listed = "; ".join(f"{' '.join(row.place)}: {row.remark}" for row in wrong)
        raise BenchError(
            f"{len(wrong)} kernel cases are wrong, and no time is given for them: {listed}. "
            f"The other figures hold."
        )


def settle_interpreter(device: torch.device) -> None:
    """Have Triton's interpreter run kernels on a CPU, and not on a GPU.

    Triton reads the environment when it is imported. Raises :class:`BenchError` where that cannot be changed any
    more, without Triton, and for other devices.
    """
    if not has_triton():
        raise BenchError("kernels need Triton, which is not installed: pip install 'interp[gpu]'.")
    if device.type not in ("cpu", "cuda"):
        raise BenchError(f"kernels run on 'cuda', or in Triton's interpreter on 'cpu'; got {str(device)!r}.")
    if device.type == "cuda" and is_interpreted():
        raise BenchError("TRITON_INTERPRET is set, so that times would be the interpreter's: unset it.")
    if device.type == "cpu" and not is_interpreted():
        if "triton" in sys.modules:
            raise BenchError("on a CPU kernels run in Triton's interpreter: start with TRITON_INTERPRET=1.")
        os.environ["TRITON_INTERPRET"] = "1"


def keep_in_file(path: Path, device: torch.device) -> Callable[[Sequence[KernelRow]], None]:
    """What appends rows to a CSV file. Raises :class:`BenchError` for one that does not fit."""
    check_rows_file(path, KernelRow)
    setting = describe_setting(device)

    def keep(rows: Sequence[KernelRow]) -> None:
        append_rows(path, replace(setting, dtype=rows[0].inputs_dtype), rows)

    return keep


def _choose(
    plan: KernelsPlan, device: torch.device, list_cases: Callable[[bool], Sequence[KernelCase]]
) -> list[tuple[KernelCase, bool]]:
    """Cases, and whether each is timed."""
    small = plan.choose(list_cases(True)) if plan.is_quick or device.type == "cpu" else []
    real = plan.choose(list_cases(False)) if device.type == "cuda" else []
    if plan.is_quick:
        first = {case.op: case for case in reversed(real)}
        real = [case for case in real if case is first[case.op]]
    # compiling and tuning small cases too may use up the minutes
    return [(case, plan.times) for case in real] + [(case, False) for case in small]


def _describe_place(device: torch.device) -> str:
    if device.type == "cuda":
        return f"device: {torch.cuda.get_device_name(device)}"
    return "device: CPU, small cases in Triton's interpreter. Only a GPU can say how fast kernels are."


def main(arguments: Sequence[str] | None = None) -> int:
    """The benchmark as a command of its own, for machines that have little installed; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m interp.bench.kernels", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--op", action="append", default=[], help="operation; may be repeated")
    parser.add_argument("--dtype", action="append", default=[], help="of inputs; may be repeated")
    parser.add_argument("--device", type=torch.device, help="cuda or cpu")
    parser.add_argument("--minutes", type=float, help="after so many, what is left is skipped")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-times", action="store_true", help="check only, and compile kernels for later")
    parser.add_argument("--seed", type=int, default=0, help="of inputs")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    given = parser.parse_args(arguments)
    try:
        plan = KernelsPlan.quick(given.seed) if given.quick else KernelsPlan(seed=given.seed)
        plan = replace(
            plan,
            ops=tuple(given.op),
            dtypes=tuple(given.dtype),
            minutes=plan.minutes if given.minutes is None else given.minutes,
            compiles=plan.compiles and not given.no_compile,
            times=not given.no_times,
        )
        device = given.device or find_device()
        keep = None if given.csv is None else keep_in_file(given.csv, device)
        report = run_kernels(plan, device, lambda line: print(line, file=sys.stderr, flush=True), keep)
        print(write_plainly(report))
        refuse_wrong(report.rows)
    except InterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
