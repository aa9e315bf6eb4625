"""``interp dashboard``: a page to leaf through the latents of a coder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from interp.cli.coder_options import (
    CoderArgument,
    CoderModelOption,
    DataOption,
    PromptsOption,
    SplitOption,
    TextSeedOption,
)
from interp.cli.options import DeviceOption, ProgressOption


def run_dashboard(
    folder: CoderArgument,
    out: Annotated[Path, typer.Option(help="The page, an .html file.")],
    model: CoderModelOption = None,
    latents: Annotated[
        str, typer.Option(help="1,5,7-9, or random:20 of those that fire, or all that fire.")
    ] = "random:50",
    data: DataOption = "generated",
    n: PromptsOption = 1024,
    seed: TextSeedOption = 2,
    split: SplitOption = "train",
    layer: Annotated[
        int | None, typer.Option(help="Of a cross-layer transcoder: whose latents, counted from its first.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Largest activations of a latent.", min=1)] = 12,
    window: Annotated[int, typer.Option(help="Tokens shown on either side.", min=0)] = 10,
    batch_size: Annotated[int, typer.Option(help="Prompts of one forward.", min=1)] = 16,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Write a page of latents: what each fires on, which tokens it raises, which latents are near it.

    interp dashboard sae --model mix-4l --latents random:20 --out latents.html
    """
    from rich.console import Console

    from interp.cli.coder_options import open_coder, read_latents
    from interp.cli.inputs import check_device
    from interp.cli.outputs import check_outputs

    chosen = read_latents(latents)
    check_outputs([], report=out)
    coder, loaded = open_coder(folder, model, check_device(device), progress)

    from interp.coders.dashboard import profile_latents
    from interp.coders.data_files import open_data
    from interp.reports.dashboard import write_dashboard

    profile = profile_latents(
        loaded,
        cast("Any", coder),
        open_data(loaded, data, n=n, seed=seed, split=cast("Any", split)),
        chosen,
        layer=layer,
        n_examples=examples,
        window=window,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    console = Console()
    for line in profile.summary().splitlines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    written = write_dashboard(profile, out)
    console.print(f"Written: {written.absolute()}", soft_wrap=True, highlight=False, markup=False)
