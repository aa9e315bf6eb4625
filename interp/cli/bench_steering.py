"""``interp bench steering*``: what steerings gain and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from interp.cli.bench_runs import (
    CsvOption,
    DeviceOption,
    QuickOption,
    ThreadsOption,
    prepare_run,
    print_report,
    say,
    share_cores,
)

SeedsOption = Annotated[int | None, typer.Option(help="How many.", min=1)]
FirstSeedOption = Annotated[int, typer.Option(help="The first of the seeds.")]


def add_commands(app: typer.Typer) -> None:
    """Put these benchmarks among the others."""
    app.command("steering")(run_steering)
    app.command("steering-bake")(run_steering_bake)
    app.command("steering-gates")(run_steering_gates)
    app.command("steering-maps")(run_steering_maps)


def run_steering(
    quick: QuickOption = False,
    csv: CsvOption = None,
    target: Annotated[
        list[str] | None, typer.Option(help="sentiment=positive, tense=past ...; may be repeated.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="An extraction's name; may be repeated.")] = None,
    dose: Annotated[list[float] | None, typer.Option(help="Nats a token; may be repeated.")] = None,
    seeds: SeedsOption = None,
    seed: FirstSeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Every extraction at equal KL beside controls: what it gains and what it costs.

    interp bench steering --quick --csv steering.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.steering_report import SteeringRow

    plan = bench.SteeringPlan.quick(seed) if quick else bench.SteeringPlan(seed=seed)
    asked: dict[str, Any] = {"seeds": seeds, "threads": threads}
    asked |= {"targets": tuple(target or ()) or None, "methods": tuple(method or ()) or None}
    asked |= {"doses": tuple(dose or ()) or None}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, SteeringRow)
    print_report(bench.run_steering(plan, where, say, keep), csv)


def run_steering_maps(
    quick: QuickOption = False,
    csv: CsvOption = None,
    target: Annotated[
        list[str] | None, typer.Option(help="formality=formal, sentiment=positive ...; may be repeated.")
    ] = None,
    seeds: SeedsOption = None,
    dose: Annotated[float | None, typer.Option(help="Nats a token, of the comparison at equal dose.")] = None,
    steps: Annotated[int | None, typer.Option(help="That LinEAS is trained for.", min=1)] = None,
    seed: FirstSeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """LinEAS against mean differences and layer-wise maps between two styles: target rate, legality, loss.

    interp bench steering-maps --quick --csv maps.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.steering_maps_report import SteeringMapsRow

    plan = bench.SteeringMapsPlan.quick(seed) if quick else bench.SteeringMapsPlan(seed=seed)
    asked: dict[str, Any] = {"seeds": seeds, "dose": dose, "steps": steps, "threads": threads}
    asked |= {"targets": tuple(target or ()) or None}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, SteeringMapsRow)
    print_report(bench.run_steering_maps(plan, where, say, keep), csv)


def run_steering_bake(
    quick: QuickOption = False,
    csv: CsvOption = None,
    layer: Annotated[list[int] | None, typer.Option(help="Of the facts model; may be repeated.")] = None,
    submodule: Annotated[
        list[str] | None, typer.Option(help="W_O, W_in, W_out or mlp; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of training a part of a layer.", min=1)] = None,
    seeds: SeedsOption = None,
    seed: FirstSeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Steering in the weights: abstaining baked in by CASAL against the same vector always on; gaps to hooks.

    interp bench steering-bake --quick --csv steering-bake.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.steering_bake_report import BakeRow

    plan = bench.BakePlan.quick(seed) if quick else bench.BakePlan(seed=seed)
    asked: dict[str, Any] = {"seeds": seeds, "threads": threads, "steps": steps}
    asked |= {"layers": tuple(layer or ()) or None, "submodules": tuple(submodule or ()) or None}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, BakeRow)
    print_report(bench.run_bake(plan, where, say, keep), csv)


def run_steering_gates(
    quick: QuickOption = False,
    csv: CsvOption = None,
    task: Annotated[
        list[str] | None, typer.Option(help="music or 'music and past'; may be repeated.")
    ] = None,
    seeds: SeedsOption = None,
    dose: Annotated[float | None, typer.Option(help="Nats a token, of the steering without a gate.")] = None,
    steps: Annotated[int | None, typer.Option(help="That controllers are trained for.", min=1)] = None,
    seed: FirstSeedOption = 0,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Controllers and conditions against steering that is always on, at matched false-positive rates.

    interp bench steering-gates --quick --csv steering-gates.csv
    """
    share_cores(quick)
    from interp import bench
    from interp.bench.steering_gates_report import SteeringGateRow

    plan = bench.SteeringGatesPlan.quick(seed) if quick else bench.SteeringGatesPlan(seed=seed)
    asked: dict[str, Any] = {"tasks": tuple(task or ()) or None, "seeds": seeds, "dose": dose}
    asked |= {"n_steps": steps, "threads": threads}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    where, keep = prepare_run(device, csv, SteeringGateRow)
    print_report(bench.run_steering_gates(plan, where, say, keep), csv)
