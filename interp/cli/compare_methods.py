"""``interp compare-methods``: estimates of patching against exact patching, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.options import (
    AblationOption,
    DeviceOption,
    DirectionOption,
    MetricOption,
    OutOption,
    PairsOption,
    ProgressOption,
    TaskFileOption,
)


def run_comparison(
    model: Annotated[
        list[str] | None, typer.Option(help="A bundled name, a folder or a hub id; may be repeated.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task's name (interp tasks); may be repeated.")
    ] = None,
    task_file: TaskFileOption = None,
    sites: Annotated[
        str, typer.Option(help="Comma-separated, such as resid_pre,z.")
    ] = "resid_pre,attn_out,mlp_out",
    methods: Annotated[
        str, typer.Option(help="Comma-separated; interp patch --help lists them.")
    ] = "attribution,attribution*,ig,relevance",
    direction: DirectionOption = "denoise",
    ablation: AblationOption = "source",
    metric: MetricOption = None,
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="Which prompts.")] = 0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, in one more run of each.")] = True,
    out: OutOption = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Compare estimates with exact patching of every place: correlation, time and memory.

    interp compare-methods --model mix-4l --task ioi --task agreement --out methods.html
    """
    from rich.console import Console

    from interp.cli.inputs import (
        check_choices,
        check_device,
        check_method,
        load_prompts,
        load_quietly,
        split_sites,
    )
    from interp.cli.outputs import check_outputs, write_scores
    from interp.cli.tables import print_comparison
    from interp.errors import PatchError

    outputs = check_outputs(out or [])
    where, places = check_device(device), split_sites(sites)
    names: list[str | None] = [None] if task_file is not None and not task else [*(task or ["ioi"])]
    for name in names:
        check_choices(name, task_file, direction, ablation, metric)
    chosen = [part.strip() for part in methods.split(",") if part.strip()]
    for method in chosen:
        check_method(method)
    if "exact" in chosen or not chosen:
        raise PatchError(
            "every method is compared with exact patching; name at least one estimate, and not 'exact'."
        )

    from interp.patching import compare_methods

    cases = []
    for loaded in (load_quietly(name, where, progress) for name in model or ["mix-4l"]):
        cases += [(loaded, load_prompts(loaded, name, task_file, n, seed, {})) for name in names]
    found = compare_methods(
        None,
        cases,
        places,
        chosen,
        direction=direction,  # type: ignore[arg-type]
        ablation=ablation,  # type: ignore[arg-type]
        metric=metric,
        measure_memory=memory,
        seed=seed,
        progress=progress,
    )
    print_comparison(Console(), found)
    for path in outputs:
        written = write_scores(path, found, cases[0][1]).absolute()
        Console().print(f"Written: {written}", soft_wrap=True, highlight=False, markup=False)
