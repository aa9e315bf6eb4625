"""``interp search-sets``: places patched together, from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.types import Site


def run_search(
    model: Annotated[str, typer.Option(help="A bundled name, a folder or a hub id.")] = "mix-4l",
    task: Annotated[str | None, typer.Option(help="A task's name (interp tasks); ioi by default.")] = None,
    task_file: Annotated[
        Path | None,
        typer.Option(help="Your own pairs: CSV or JSONL with columns clean, corrupted, answer, wrong."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the task, key=value; may be repeated.")
    ] = None,
    site: Annotated[str, typer.Option(help="Whose cells make the sets, such as z or z,mlp_out.")] = "z",
    size: Annotated[int, typer.Option(help="Members of a set.", min=2)] = 2,
    how: Annotated[str, typer.Option(help="exhaustive or greedy.")] = "exhaustive",
    candidates: Annotated[
        str | None,
        typer.Option(help="Only so many cells of the largest effect alone, or these sites: z[0.1],z[1.0]."),
    ] = None,
    direction: Annotated[str, typer.Option(help="denoise or noise.")] = "denoise",
    ablation: Annotated[
        str, typer.Option(help="source, zero, mean, mean-per-position or resample.")
    ] = "source",
    metric: Annotated[str | None, typer.Option(help="A metric's name; the task's own by default.")] = None,
    n: Annotated[int | None, typer.Option(help="Prompt pairs: 32 by default, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Which prompts, and the choices of resample.")] = 0,
    top: Annotated[int, typer.Option(help="Sets in the terminal's tables.", min=1)] = 10,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="A result file: .html .json .parquet .csv .safetensors; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
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
