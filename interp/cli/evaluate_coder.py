"""``interp evaluate-coder``: what a coder keeps of its model, how its directions lie, what its latents know."""

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


def run_evaluate_coder(
    folder: CoderArgument,
    model: CoderModelOption = None,
    data: DataOption = "generated",
    n: PromptsOption = 256,
    seed: TextSeedOption = 2,
    split: SplitOption = "train",
    ablation: Annotated[
        str, typer.Option(help="What the loss is compared with: the site's mean, or zero.")
    ] = "mean",
    batch_size: Annotated[int, typer.Option(help="Prompts of one forward.", min=1)] = 16,
    attributes: Annotated[
        bool | None,
        typer.Option(
            help="Which latents tell the generated text's attributes; by default where the model reads that text."
        ),
    ] = None,
    any_site: Annotated[
        bool,
        typer.Option("--any-site", help="Let it stand at --site though it was trained at another."),
    ] = False,
    site: Annotated[
        str | None, typer.Option(help="Where it stands, for a coder that does not know: mlp_out[2].")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to a .json file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row a site to a .csv file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report to an .html file.")] = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Evaluate a coder in its model: sparsity, fidelity, loss recovered, geometry, attributes.

    interp evaluate-coder sae --model mix-4l --report sae.html
    """
    from rich.console import Console

    from interp.cli.coder_options import open_coder
    from interp.cli.inputs import check_device
    from interp.cli.outputs import check_outputs

    check_outputs([], json=json, csv=csv, report=report)
    coder, loaded = open_coder(folder, model, check_device(device), progress)

    from interp.cli.coder_outputs import CoderFindings, write_findings
    from interp.cli.coder_tables import print_findings
    from interp.coders.data_files import open_data
    from interp.coders.evaluate import evaluate_coder

    prompts = open_data(loaded, data, n=n, seed=seed, split=cast("Any", split))
    found = evaluate_coder(
        loaded,
        coder if site is None else {site: coder},
        prompts,
        ablation=cast("Any", ablation),
        n_prompts=n,
        batch_size=batch_size,
        any_site=any_site,
        seed=seed,
        progress=progress,
    )
    findings = CoderFindings.add_to(found, coder, loaded, prompts, attributes, seed, progress)
    console = Console()
    print_findings(console, findings)
    for path in write_findings(findings, json, csv, report):
        console.print(f"Written: {path.absolute()}", soft_wrap=True, highlight=False, markup=False)
