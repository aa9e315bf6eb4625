"""``interp search-sets``: places patched together, from the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from interp.types import Site


def run_search(
    model: ModelOption = "mix-4l",
    task: TaskOption = None,
    task_file: TaskFileOption = None,
    option: TaskOptionsOption = None,
    site: Annotated[str, typer.Option(help="Whose cells make the sets, such as z or z,mlp_out.")] = "z",
    size: Annotated[int, typer.Option(help="Members of a set.", min=2)] = 2,
    how: Annotated[str, typer.Option(help="exhaustive or greedy.")] = "exhaustive",
    candidates: Annotated[
        str | None,
        typer.Option(help="Only so many cells of the largest effect alone, or these sites: z[0.1],z[1.0]."),
    ] = None,
    direction: DirectionOption = "denoise",
    ablation: AblationOption = "source",
    metric: MetricOption = None,
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="Which prompts, and the choices of resample.")] = 0,
    top: Annotated[int, typer.Option(help="Sets in the terminal's tables.", min=1)] = 10,
    out: OutOption = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Patch sets of places together: what they do beyond the sum of each alone.

    interp search-sets --model mix-4l --task ioi --site z --size 2 --out pairs.html
    """
    from rich.console import Console

    from interp.cli.inputs import (
        check_choices,
        check_device,
        load_prompts,
        load_quietly,
        parse_options,
        split_sites,
    )
    from interp.cli.outputs import check_outputs, write_scores
    from interp.cli.tables import print_sets
    from interp.errors import PatchError, unknown_name

    outputs = check_outputs(out or [])
    options = parse_options(option or [])
    where = check_device(device)
    places, narrowed = split_sites(site), _read_candidates(candidates)
    check_choices(task, task_file, direction, ablation, metric)
    from interp.patching.sets import SEARCHES, search_sets

    if how not in SEARCHES:
        raise PatchError(unknown_name("search", how, SEARCHES))
    loaded = load_quietly(model, where, progress)
    prompts = load_prompts(loaded, task, task_file, n, seed, options)
    choices: dict[str, Any] = {"direction": direction, "ablation": ablation, "metric": metric}
    found = search_sets(
        loaded,
        prompts,
        places,
        size,
        how=how,
        candidates=narrowed,
        seed=seed,
        progress=progress,
        **choices,
    )
    console = Console()
    console.print(found.provenance.summary(), markup=False, highlight=False)
    print_sets(console, found, top)
    for note in found.provenance.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for path in outputs:
        written = write_scores(path, found, prompts).absolute()
        console.print(f"Written: {written}", soft_wrap=True, highlight=False, markup=False)


def _read_candidates(text: str | None) -> int | list[Site] | None:
    """A number of cells, or sites."""
    from interp.cli.inputs import split_sites

    if text is None:
        return None
    return int(text) if text.strip().isdecimal() else split_sites(text)
