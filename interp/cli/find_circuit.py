"""``interp find-circuit``: from a model and a task to tested circuits, and sweeps of such searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.errors import INTERRUPTED
from interp.cli.options import (
    AblationOption,
    DeviceOption,
    DirectionOption,
    MetricOption,
    ModelOption,
    PairsOption,
    ProgressOption,
    TaskFileOption,
    TaskOption,
    TaskOptionsOption,
)

if TYPE_CHECKING:
    import torch

PARTLY, CHECK_FAILED = 1, 3

_WITH_CONFIG = {"config", "out", "restart", "device", "progress"}
_NOT_OF_A_PLAN = _WITH_CONFIG | {"model", "task", "task_file", "option", "n", "top"}


def run_find_circuit(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="A folder; the same command with it goes on where it was.")],
    model: ModelOption = "mix-4l",
    task: TaskOption = None,
    task_file: TaskFileOption = None,
    option: TaskOptionsOption = None,
    method: Annotated[
        str,
        typer.Option(
            help="exact (or exact-edges), relevance (or relevance-edges), relevance:relp-ah, relevance:attnlrp, eap, "
            "eap-ig, eap-ig:activations, eap-ig:clean-corrupted, atp* or acdc."
        ),
    ] = "eap-ig",
    edges: Annotated[
        str | None,
        typer.Option(
            help="Circuits by size: shares such as 1%,2%,5% (the default) or 0.02, or counts such as 50."
        ),
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Circuits of all edges that carry this share of the gap: 0.01,0.05.")
    ] = None,
    tau: Annotated[
        str | None, typer.Option(help="Of acdc, a circuit each: 0.01,0.03.  [default: 0.01]")
    ] = None,
    how: Annotated[str, typer.Option(help="top, or greedy: outwards from the logits.")] = "top",
    signed: Annotated[bool, typer.Option("--signed", help="Only edges that support the answer.")] = False,
    positions: Annotated[
        str | None, typer.Option(help="Tell positions apart: pos for all, or labels of the task, S1,S2,END.")
    ] = None,
    neurons: Annotated[
        str | None, typer.Option(help="Neurons as nodes of their own: all, or m3.n5,m3.n17.")
    ] = None,
    direction: DirectionOption = "noise",
    ablation: AblationOption = "source",
    metric: MetricOption = None,
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="Of prompts, resampling, checked edges, random circuits.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, wavefront or hooked.")] = "auto",
    memory: Annotated[int, typer.Option(help="For activations beside the weights, MiB.", min=1)] = 1024,
    verify: Annotated[
        str, typer.Option(help="exact or none: check an estimate by exact patching of some of its edges.")
    ] = "exact",
    verify_top: Annotated[int, typer.Option(help="How many of the first ones are checked.", min=0)] = 20,
    verify_sample: Annotated[int, typer.Option(help="How many of the others, at random.", min=0)] = 20,
    faithfulness: Annotated[bool, typer.Option(help="Run every circuit, and random ones beside it.")] = True,
    curve: Annotated[bool, typer.Option(help="Run circuits of every size, for CPR and CMD.")] = True,
    random: Annotated[int, typer.Option(help="Random circuits of each kind and size.", min=0)] = 10,
    min_faithfulness: Annotated[
        float | None, typer.Option(help="Exit with 3 unless the largest circuit keeps so much.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Exit with 3 unless Pearson's r with exact patching is so much.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A sweep over models, tasks and methods: a .toml or .yaml file.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete what this command left in --out, and begin anew.")
    ] = False,
    top: Annotated[int, typer.Option(help="Edges in the terminal's table.", min=1)] = 10,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Find a task's circuits: score every edge, cut, run what was cut, and write it all to --out.

    interp find-circuit --model mix-4l --task ioi --method relevance-edges --edges 1%,2%,5% --verify exact --out ioi

    Stopped at any moment, the same command goes on, and ends with the same files.

    Exit status: 0 done; 1 some searches of a sweep failed; 2 an error in what
    was asked; 3 a --min-... bound does not hold; 130 interrupted.
    """
    from interp.cli.inputs import check_device, parse_options

    where = check_device(device)
    if config is not None:
        _refuse_beside_config(context)
        _sweep(config, out, where, restart, progress)
        return
    given = {
        name: value
        for name, value in context.params.items()
        if name not in _NOT_OF_A_PLAN and value is not None
    }
    prompts = {"name": task, "file": task_file, "n": n, "options": parse_options(option or [])}
    _search(model, prompts, given, out, where, restart, top, progress)


def _search(
    model: str,
    prompts: Mapping[str, Any],
    given: Mapping[str, Any],
    out: Path,
    where: torch.device | None,
    restart: bool,
    top: int,
    progress: bool,
) -> None:
    """One search, its report and its exit status."""
    from rich.console import Console

    from interp.circuits.plan import SearchPlan, TaskPlan
    from interp.circuits.search import search_circuits
    from interp.circuits.sweep_file import read_options
    from interp.cli.circuit_outputs import write_search_report
    from interp.cli.circuit_tables import print_search
    from interp.cli.inputs import load_quietly
    from interp.reports import check_writable

    chosen = dict(prompts)
    if chosen["name"] is None and chosen["file"] is None:
        chosen["name"] = "ioi"
    asked, plan = TaskPlan(**chosen), SearchPlan(**read_options(given))
    check_writable(out / "summary.json")
    with _resumable(out):
        loaded = load_quietly(model, where, progress)
        task = asked.load(loaded, plan.seed)
        found = search_circuits(loaded, task, plan, folder=out, restart=restart, progress=progress)
        report = write_search_report(found, task)
    console = Console()
    print_search(console, found, top)
    _say_written(console, report)
    if not found.passed:
        raise typer.Exit(CHECK_FAILED)


def _sweep(config: Path, out: Path, where: torch.device | None, restart: bool, progress: bool) -> None:
    """All searches of a file, each reported as it is done."""
    from rich.console import Console

    from interp.circuits.sweep import run_sweep
    from interp.circuits.sweep_file import read_sweep
    from interp.cli.circuit_outputs import claim_folder, write_search_report, write_sweep
    from interp.cli.circuit_tables import print_progress, print_sweep
    from interp.cli.inputs import load_quietly
    from interp.reports import check_writable

    plan = read_sweep(config)
    check_writable(out / "summary.json")
    claim_folder(out, plan)
    console, results, total = Console(), [], len(list(plan.searches()))
    with _resumable(out):
        searches = run_sweep(
            plan,
            out,
            restart=restart,
            progress=progress,
            load=lambda name: load_quietly(name, where, progress),
        )
        for number, result in enumerate(searches, start=1):
            results.append(result)
            print_progress(console, result, number, total)
            if result.found is not None and result.prompts is not None:
                write_search_report(result.found, result.prompts)
        written = write_sweep(out, results)
    print_sweep(console, results)
    _say_written(console, *written)
    statuses = {result.status for result in results}
    if statuses != {"done"}:
        raise typer.Exit(PARTLY if "failed" in statuses else CHECK_FAILED)


def _refuse_beside_config(context: typer.Context) -> None:
    """Raise :class:`CircuitError` for an option of a search beside a file that gives them."""
    from interp.errors import CircuitError

    given = [
        name
        for name in context.params
        if name not in _WITH_CONFIG
        and getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    ]
    if given:
        option = given[0].replace("_", "-")
        raise CircuitError(
            f"--config takes the options of its searches from the file; --{option} does not go with it."
        )


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Say on Ctrl-C that nothing is lost, and leave with the status of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted; what is finished lies in {str(out)!r}, and the same command goes on from there.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def _say_written(console: Any, *paths: Path) -> None:
    for path in paths:
        console.print(f"Written: {path.absolute()}", soft_wrap=True, highlight=False, markup=False)
