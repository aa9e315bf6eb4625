"""``interp bench``: measure this package against its peers, one command a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import bench_kernels, bench_steering
from interp.cli.bench_runs import (
    CsvOption,
    DeviceOption,
    QuickOption,
    SeedOption,
    ShapesOption,
    ThreadsOption,
    prepare_run,
    print_report,
    say,
    share_cores,
)
from interp.errors import BenchError

if TYPE_CHECKING:
    pass

bench_app = typer.Typer(invoke_without_command=True)


@bench_app.callback()
def list_benchmarks(context: typer.Context) -> None:
    """Measure this package against its peers; alone, list the benchmarks."""
    if context.invoked_subcommand is not None:
        return
    commands = getattr(context.command, "commands", {})
    width = max(len(name) for name in commands)
    for name, command in commands.items():
        typer.echo(f"{name:{width}s}  {command.get_short_help_str(limit=100)}")


@bench_app.command("sweep")
def run_sweep(
    quick: QuickOption = False,
    csv: CsvOption = None,
    shape: ShapesOption = None,
    difference: Annotated[
        list[int] | None, typer.Option(help="First of 16 positions that differ; may be repeated.")
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(help="headline, all or sample: which variants of the peer run every site."),
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Exact patching of every site against TransformerLens, and against the FLOP floor.

    interp bench sweep --quick --csv sweep.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.sweep_report import SweepRow

    asked: dict[str, Any] = {"peer": peer, "threads": threads}
    asked["shapes"] = tuple(bench.parse_shape(text) for text in shape or ()) or None
    asked["differences"] = tuple(difference or ()) or None
    plan = bench.SweepPlan.quick(seed) if quick else bench.SweepPlan(seed=seed)
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, SweepRow)
    print_report(bench.run_sweep(plan, where, say, keep), csv)


@bench_app.command("growth")
def run_growth(
    quick: QuickOption = False,
    csv: CsvOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """How the time of a sweep grows with layers, positions and prompts.

    interp bench growth --quick --csv growth.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.growth_report import GrowthRow

    plan = bench.GrowthPlan.quick(seed) if quick else bench.GrowthPlan(seed=seed)
    plan = plan if threads is None else replace(plan, threads=threads)
    where, keep = prepare_run(device, csv, GrowthRow)
    print_report(bench.run_growth(plan, where, say, keep), csv)


@bench_app.command("attribution")
def run_attribution(
    quick: QuickOption = False,
    csv: CsvOption = None,
    shape: ShapesOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Attribution of every node against two forwards and one backward, and TransformerLens' caches.

    interp bench attribution --quick --csv attribution.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.attribution_report import AttributionRow

    plan = bench.AttributionPlan.quick(seed) if quick else bench.AttributionPlan(seed=seed)
    shapes = tuple(bench.parse_shape(text) for text in shape or ()) or plan.shapes
    plan = replace(plan, shapes=shapes, threads=threads)
    where, keep = prepare_run(device, csv, AttributionRow)
    print_report(bench.run_attribution(plan, where, say, keep), csv)


@bench_app.command("methods")
def run_methods(
    quick: QuickOption = False,
    csv: CsvOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """How well attribution, AtP*, integrated gradients and relevance agree with exact patching.

    interp bench methods --quick --csv methods.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.methods_report import MethodAgreementRow

    plan = bench.MethodsPlan.quick(seed) if quick else bench.MethodsPlan(seed=seed)
    where, keep = prepare_run(device, csv, MethodAgreementRow)
    print_report(bench.run_methods(replace(plan, threads=threads), where, say, keep), csv)


@bench_app.command("edges")
def run_edges(
    quick: QuickOption = False,
    csv: CsvOption = None,
    shape: ShapesOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """EAP of every edge against the formula from caches, and every edge exactly against one forward an edge.

    interp bench edges --quick --csv edges.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.edges_report import EdgeRow

    plan = bench.EdgesPlan.quick(seed) if quick else bench.EdgesPlan(seed=seed)
    shapes = tuple(bench.parse_shape(text) for text in shape or ()) or plan.shapes
    where, keep = prepare_run(device, csv, EdgeRow)
    print_report(bench.run_edges(replace(plan, shapes=shapes, threads=threads), where, say, keep), csv)


@bench_app.command("recovery")
def run_recovery(
    quick: QuickOption = False,
    csv: CsvOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Which scores of edges find the circuits of planted models and compiled programs.

    interp bench recovery --quick --csv recovery.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.recovery_report import RecoveryRow

    plan = bench.RecoveryPlan.quick(seed) if quick else bench.RecoveryPlan(seed=seed)
    where, keep = prepare_run(device, csv, RecoveryRow)
    print_report(bench.run_recovery(replace(plan, threads=threads), where, say, keep), csv)


@bench_app.command("coder-memory")
def run_coder_memory(
    quick: QuickOption = False,
    csv: CsvOption = None,
    tokens: Annotated[int | None, typer.Option(help="Of the cached data set.", min=1)] = None,
    buffer: Annotated[int | None, typer.Option(help="Rows of the shuffle buffer.", min=1)] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the cache lies while it is read.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Peak memory of reading a cached data set through the shuffle buffer.

    interp bench coder-memory --quick --csv coder-memory.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.coder_memory_report import CoderMemoryRow

    plan = bench.CoderMemoryPlan.quick(seed) if quick else bench.CoderMemoryPlan(seed=seed)
    asked: dict[str, Any] = {"tokens": tokens, "buffer_rows": buffer, "threads": threads}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    if folder is not None and not folder.is_dir():
        raise BenchError(f"there is no folder {str(folder)!r}; make it.")
    _, keep = prepare_run("cpu", csv, CoderMemoryRow)
    print_report(bench.run_coder_memory(plan, folder, say, keep), csv)


@bench_app.command("coder-step")
def run_coder_step(
    quick: QuickOption = False,
    csv: CsvOption = None,
    d_in: Annotated[int | None, typer.Option(help="Width of the activations.", min=1)] = None,
    d_sae: Annotated[int | None, typer.Option(help="Latents.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step.", min=1)] = None,
    k: Annotated[int | None, typer.Option(help="Latents that fire in a row.", min=1)] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """A training step of a sparse coder against SAELens' trainer and the encoder's product alone.

    interp bench coder-step --quick --csv coder-step.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.coder_step_report import CoderStepRow

    plan = bench.CoderStepPlan.quick(seed) if quick else bench.CoderStepPlan(seed=seed)
    asked: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "batch_size": batch, "k": k, "threads": threads}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, CoderStepRow)
    print_report(bench.run_coder_step(plan, where, say, keep), csv)


@bench_app.command("coders")
def run_coders(
    quick: QuickOption = False,
    csv: CsvOption = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="superposition, hierarchy or correlated; may be repeated.")
    ] = None,
    architecture: Annotated[
        list[str] | None, typer.Option(help="topk, jumprelu ...; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many.", min=1)] = None,
    tokens: Annotated[int | None, typer.Option(help="Rows that each coder is trained on.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Which architectures recover planted features: MCC, F1 and FVU over seeds, random dictionaries beside.

    interp bench coders --quick --csv coders.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.coders_report import CodersRow

    plan = bench.CodersPlan.quick(seed) if quick else bench.CodersPlan(seed=seed)
    asked: dict[str, Any] = {"seeds": seeds, "tokens": tokens, "threads": threads}
    asked |= {"suites": tuple(suite or ()) or None, "architectures": tuple(architecture or ()) or None}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, CodersRow)
    print_report(bench.run_coders(plan, where, say, keep), csv)


@bench_app.command("coder-models")
def run_coder_models(
    quick: QuickOption = False,
    csv: CsvOption = None,
    part: Annotated[
        list[str] | None, typer.Option(help="choice, 'one MLP' or 'all MLPs'; may be repeated.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many.", min=2)] = None,
    tokens: Annotated[int | None, typer.Option(help="Rows that each coder is trained on.", min=1)] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Coders in mix-4l: cross-entropy recovered by gradient coders, (skip) transcoders, cross-layer transcoders.

    interp bench coder-models --quick --csv coder-models.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.coder_models_report import CoderModelRow

    plan = bench.CoderModelsPlan.quick(seed) if quick else bench.CoderModelsPlan(seed=seed)
    asked: dict[str, Any] = {
        "parts": tuple(part or ()) or None,
        "seeds": seeds,
        "tokens": tokens,
        "threads": threads,
    }
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, CoderModelRow)
    print_report(bench.run_coder_models(plan, where, say, keep), csv)


bench_steering.add_commands(bench_app)
bench_kernels.add_commands(bench_app)
