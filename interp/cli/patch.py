"""``interp patch``: activation patching from the shell, exact or estimated and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    AblationOption,
    DeviceOption,
    DirectionOption,
    MetricOption,
    ModelOption,
    OutOption,
    PairsOption,
    ProgressOption,
    TaskFileOption,
    TaskOption,
    TaskOptionsOption,
)


def run_patch(
    model: ModelOption = "mix-4l",
    task: TaskOption = None,
    task_file: TaskFileOption = None,
    option: TaskOptionsOption = None,
    sites: Annotated[str, typer.Option(help="Comma-separated, such as z,resid_pre@END.")] = "z,resid_pre",
    direction: DirectionOption = "denoise",
    method: Annotated[
        str,
        typer.Option(
            help="exact, or an estimate: attribution, attribution*, ig, ig:activation, relevance, "
            "relevance:relp-ah, relevance:attnlrp."
        ),
    ] = "exact",
    verify: Annotated[
        bool, typer.Option(help="Check an estimate by exact patching of some of its places.")
    ] = True,
    verify_top: Annotated[int, typer.Option(help="How many of the first ones are checked.", min=0)] = 20,
    verify_sample: Annotated[int, typer.Option(help="How many of the others, drawn at random.", min=0)] = 20,
    ablation: AblationOption = "source",
    metric: MetricOption = None,
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="Which prompts, and the choices of resample.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, wavefront or hooked.")] = "auto",
    memory: Annotated[
        int | None,
        typer.Option(
            help="MiB for activations beside the weights; 1024 if not given, or most of a GPU's that is free.",
            min=1,
        ),
    ] = None,
    receivers: Annotated[
        str | None,
        typer.Option(help="Patch along paths: --sites send to these only, such as q[2.1]@END,v[2.1]."),
    ] = None,
    mlps: Annotated[
        str, typer.Option(help="MLPs between sender and receivers: frozen or recomputed.")
    ] = "frozen",
    top: Annotated[int, typer.Option(help="Places in the terminal's table.", min=1)] = 10,
    out: OutOption = None,
    json: Annotated[Path | None, typer.Option(help="As --out, a .json file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="As --out, a .parquet file.")] = None,
    scores: Annotated[Path | None, typer.Option(help="As --out, a .safetensors file.")] = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Patch the activation at each site and score what becomes of the metric.

    interp patch --model mix-4l --task ioi --sites z,resid_pre --out report.html
    """
    from rich.console import Console

    from interp.cli.inputs import (
        check_choices,
        check_device,
        check_method,
        load_prompts,
        load_quietly,
        parse_options,
        split_sites,
    )
    from interp.cli.outputs import check_outputs, write_scores
    from interp.cli.tables import print_baselines, print_top

    outputs = check_outputs(out or [], json=json, parquet=parquet, scores=scores)
    options = parse_options(option or [])
    where = check_device(device)
    places = split_sites(sites)
    check_choices(task, task_file, direction, ablation, metric, backend)
    check_method(method, receivers)
    ends = split_sites(receivers) if receivers is not None else None
    loaded = load_quietly(model, where, progress)

    from interp.patching import patch, patch_paths
    from interp.patching.budget import DEFAULT_BUDGET

    prompts = load_prompts(loaded, task, task_file, n, seed, options)
    choices: dict[str, Any] = {"direction": direction, "ablation": ablation, "metric": metric}
    choices |= {"backend": backend, "memory_budget": DEFAULT_BUDGET if memory is None else memory << 20}
    choices |= {"seed": seed, "progress": progress}
    if ends is None:
        found = patch(loaded, prompts, places, method=method, **choices)
    else:
        found = patch_paths(loaded, prompts, places, ends, mlps=mlps, **choices)
    console = Console()
    console.print(found.provenance.summary(), markup=False, highlight=False)
    print_baselines(console, found)
    print_top(console, found, top)
    check = None
    if method != "exact" and verify:
        check = found.verify(verify_top, verify_sample, seed=seed, progress=progress)
        console.print(f"against exact patching: {check.summary()}", highlight=False, markup=False)
    elif method != "exact":
        console.print("these are estimates, not checked against exact patching (--verify)", style="yellow")
    made = found.provenance
    if made.backend == "hooked" and backend == "auto":
        console.print(f"note: patched through hooks, {made.backend_reason}", markup=False, highlight=False)
    for note in made.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for key, report in found.reports.items():
        if report.warning:
            console.print(f"{key}: {report.warning}", markup=False, style="yellow")
    for path in outputs:
        written = write_scores(path, found, prompts, check).absolute()
        console.print(f"Written: {written}", soft_wrap=True, highlight=False, markup=False)
