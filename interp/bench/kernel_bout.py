"""One kernel case on one device: the gate, then the clock on the kernel and its rivals in turn."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from interp.bench.clock import take_quantiles
from interp.bench.device_clock import (
    Run,
    Taken,
    Timer,
    make_timer,
    measure_copy_rate,
    measure_product_rate,
    time_in_turn,
)
from interp.bench.kernel_case import Computation, Inputs, KernelCase, draw_inputs
from interp.bench.kernel_gate import (
    RIVALS_MAY_ROUND,
    Truth,
    find_truth,
    free_memory,
    take_kernel_error,
    take_rival_error,
)
from interp.bench.kernels_report import COMPILED, EAGER, KERNEL, SKIPPED, WRONG, KernelRow
from interp.kernels import use_kernels
from interp.kernels.backend import KernelChoice

COMPILING_MAY_TAKE = 0.4
"""Share of all minutes after which ``torch.compile`` is no longer asked."""
TOO_LARGE = f"{SKIPPED}it does not fit into the device's memory"
FIGURES = ("p20", "p50", "p80", "host", "over_kernel", "copy_rate", "matmul_rate")


@dataclass(frozen=True)
class Check:
    """What the gate says of one implementation."""

    remark: str
    """Why there is no time of it, or nothing."""
    error: float = math.nan
    truth: str = ""


@dataclass
class KernelBouts:
    """Cases measured one after another, until the time is up."""

    device: torch.device
    minutes: float
    seconds: float
    """Of the clock, a case."""
    seed: int
    compiles: bool
    began: float = field(default_factory=time.perf_counter, init=False)
    compiling: float = field(default=0.0, init=False)
    """Seconds that ``torch.compile`` has taken."""
    timer: Timer | None = field(default=None, init=False)

    def measure(self, case: KernelCase, is_timed: bool) -> list[KernelRow]:
        """The kernel's row, and one for each rival where times are taken; one that says why there is none."""
        if time.perf_counter() - self.began > 60 * self.minutes:
            return [self._row(case, KERNEL, Check(f"{SKIPPED}the {self.minutes:g} minutes are used up"))]
        try:
            if self._is_too_large(case):
                raise torch.OutOfMemoryError
            return self._check_and_time(case, is_timed)
        except torch.OutOfMemoryError:
            return [self._row(case, KERNEL, Check(TOO_LARGE))]
        # whatever Triton's compiler or a launch raises: the other cases are still to be measured
        except Exception as error:
            return [self._row(case, KERNEL, Check(WRONG + _describe(error)))]
        finally:
            free_memory()

    def _check_and_time(self, case: KernelCase, is_timed: bool) -> list[KernelRow]:
        inputs = draw_inputs(case, self.device, self.seed)
        truth = find_truth(case, inputs)
        free_memory()
        check = Check("", take_kernel_error(case, inputs, truth), _name(truth.dtype))
        if not check.error <= case.tolerance:
            remark = f"{WRONG}error {check.error:.1e}, tolerance {case.tolerance:.1e}"
            return [self._row(case, KERNEL, replace(check, remark=remark))]
        if not is_timed:
            return [self._row(case, KERNEL, check)]
        return self._time(case, inputs, truth, check)

    def _time(self, case: KernelCase, inputs: Inputs, truth: Truth, check: Check) -> list[KernelRow]:
        rivals = {EAGER: case.eager, **case.peers}
        if self.compiles and case.compiles:
            rivals[COMPILED] = torch.compile(case.eager, dynamic=False)
        checks = {KERNEL: check}
        runs: dict[str, Run] = {KERNEL: partial(_call, case.kernel, inputs, "triton")}
        for name, run in rivals.items():
            checks[name] = self._check_rival(name, run, case, inputs, truth)
            if not checks[name].remark:
                runs[name] = partial(_call, run, inputs, "reference")
        timer = self.timer = self.timer or make_timer(self.device)
        rates = {
            "copy_rate": measure_copy_rate(self.device, timer),
            "matmul_rate": measure_product_rate(self.device, case.dtype, timer),
        }
        taken = time_in_turn(timer, runs, self.seconds)
        figures = {name: _quantiles(times, taken[KERNEL]) | rates for name, times in taken.items()}
        return [self._row(case, name, found, figures.get(name)) for name, found in checks.items()]

    def _check_rival(
        self, name: str, run: Computation, case: KernelCase, inputs: Inputs, truth: Truth
    ) -> Check:
        """Its error, or why it takes no part in the clock; what is to be compiled is compiled here."""
        if name == COMPILED:
            if self.compiling > COMPILING_MAY_TAKE * 60 * self.minutes:
                return Check(f"{SKIPPED}torch.compile's share of the time is used up")
            # cases of one operation may share their code, and torch gives up after eight shapes of it
            torch._dynamo.reset()
        began = time.perf_counter()
        try:
            error = take_rival_error(run, inputs, truth)
        except torch.OutOfMemoryError:
            return Check(TOO_LARGE)
        # a rival that cannot run is no reason to lose the kernel's time
        except Exception as problem:
            return Check(SKIPPED + _describe(problem))
        finally:
            self.compiling += time.perf_counter() - began if name == COMPILED else 0.0
        agrees = error <= RIVALS_MAY_ROUND * case.tolerance
        return Check(
            "" if agrees else f"{SKIPPED}other numbers, error {error:.1e}", error, _name(truth.dtype)
        )

    def _is_too_large(self, case: KernelCase) -> bool:
        return self.device.type == "cuda" and case.n_bytes > torch.cuda.mem_get_info(self.device)[0]

    def _row(
        self, case: KernelCase, name: str, check: Check, figures: dict[str, float] | None = None
    ) -> KernelRow:
        known = dict.fromkeys(FIGURES, math.nan) | (figures or {})
        return KernelRow(
            op=case.op,
            case=case.name,
            shape=" ".join(f"{name}={size}" for name, size in case.shape.items()),
            inputs_dtype=_name(case.dtype),
            implementation=name,
            seed=self.seed,
            error=check.error,
            tolerance=case.tolerance,
            truth=check.truth,
            remark=check.remark,
            n_bytes=case.n_bytes,
            n_flops=case.n_flops,
            bytes_share=case.n_bytes / known["copy_rate"] / known["p50"],
            flops_share=case.n_flops / known["matmul_rate"] / known["p50"],
            triton=_triton_version(),
            cuda=torch.version.cuda or "",
            repeats=int(known.pop("repeats", 0)),
            **known,
        )


def _call(run: Computation, inputs: Inputs, choice: KernelChoice) -> object:
    with use_kernels(choice):
        return run(inputs)


def _quantiles(times: list[Taken], of_kernel: list[Taken]) -> dict[str, float]:
    found = take_quantiles([one.device for one in times])
    ratios = [one.device / ours.device for one, ours in zip(times, of_kernel, strict=True)]
    return {
        "repeats": len(times),
        "p20": found.p20,
        "p50": found.p50,
        "p80": found.p80,
        "host": take_quantiles([one.host for one in times]).p50,
        "over_kernel": take_quantiles(ratios).p50,
    }


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(error: Exception) -> str:
    """The error's kind and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}" + (f": {lines[0]}" if lines else "")
