"""``interp bench kernels`` and ``interp bench gpu``: how near to what a GPU can do."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from interp.cli.bench_runs import (
    CsvOption,
    QuickOption,
    SeedOption,
    ThreadsOption,
    prepare_run,
    print_report,
    say,
    share_cores,
)

MinutesOption = Annotated[
    float | None, typer.Option(help="After so many, what is left is skipped, and said to be.")
]


def add_commands(app: typer.Typer) -> None:
    """Put these benchmarks among the others."""
    app.command("kernels")(run_kernels)
    app.command("gpu")(run_gpu)


def run_kernels(
    quick: QuickOption = False,
    csv: CsvOption = None,
    op: Annotated[list[str] | None, typer.Option(help="inject, readout ...; may be repeated.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, float16 or bfloat16 inputs; may be repeated.")
    ] = None,
    minutes: MinutesOption = None,
    compiled: Annotated[bool, typer.Option(help="Whether torch.compile takes part.")] = True,
    times: Annotated[
        bool, typer.Option(help="Whether to time; if not, kernels are checked and compiled for later runs.")
    ] = True,
    seed: SeedOption = 0,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; by default the GPU if there is one.")
    ] = None,
) -> None:
    """Every kernel against plain PyTorch and torch.compile, and the rates of memory and arithmetic that it reaches.

    interp bench kernels --quick --csv kernels.csv

    Without a GPU small cases are checked in Triton's interpreter, and nothing is timed.
    """
    from interp.bench import kernels
    from interp.bench.device_clock import find_device
    from interp.cli.inputs import check_device

    asked: dict[str, Any] = {"ops": tuple(op or ()), "dtypes": tuple(dtype or ()), "minutes": minutes}
    plan = kernels.KernelsPlan.quick(seed) if quick else kernels.KernelsPlan(seed=seed)
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    plan = replace(plan, compiles=plan.compiles and compiled, times=times)
    where = check_device(device) or find_device()
    kernels.settle_interpreter(where)
    keep = None if csv is None else kernels.keep_in_file(csv, where)
    report = kernels.run_kernels(plan, where, say, keep)
    print_report(report, csv)
    kernels.refuse_wrong(report.rows)


def run_gpu(
    quick: QuickOption = False,
    csv: CsvOption = None,
    part: Annotated[list[str] | None, typer.Option(help="sweep, edges or memory; may be repeated.")] = None,
    minutes: MinutesOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 ...; cpu only with --quick, a dry run.")] = "cuda",
) -> None:
    """GPT-2 small on a GPU: sweeps against TransformerLens, every edge exactly, and memory as planned.

    interp bench gpu --quick --csv gpu.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.gpu_report import GpuRow

    asked: dict[str, Any] = {"parts": tuple(part or ()) or None, "minutes": minutes, "threads": threads}
    where, keep = prepare_run(device, csv, GpuRow)
    plan = bench.GpuPlan.quick(seed, where) if quick else bench.GpuPlan(seed=seed)
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    print_report(bench.run_gpu(plan, where, say, keep), csv)
