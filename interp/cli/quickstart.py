"""``interp quickstart``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL, TASK = "mix-4l", "ioi"
TEMPLATE = "ioi/heldout-1"
"""One template that the model was not trained on, so that every position is the same word slot."""
ABLATION_NOTE = (
    "Here the corrupted prompts hold three other names, so that the means carry no answer: these baselines "
    "are not those of the patched pairs."
)
SITES = ("z", "resid_pre", "attn_out", "mlp_out")


def run_quickstart(
    out: Annotated[Path, typer.Option(help="The report, an HTML file.")] = Path("report.html"),
    n: Annotated[int, typer.Option(help="Number of prompt pairs.", min=1)] = 32,
    seed: Annotated[int, typer.Option(help="Which prompts and which random sets.")] = 0,
    heads: Annotated[int, typer.Option(help="How many of the top heads are ablated together.", min=1)] = 3,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Find where a small transformer keeps the indirect object, and write a report.

    Patches every head, residual stream and sublayer of the bundled model mix-4l on the IOI task,
    then ablates the strongest heads together beside random sets of as many. The patched pairs swap
    the two names; the ablation takes its means from prompts with a third name, which hold no answer.
    """
    import time

    from rich.console import Console

    from interp.cli.inputs import load_prompts, load_quietly
    from interp.cli.tables import print_ablation, print_baselines, print_top
    from interp.reports import patching_report
    from interp.reports.page import check_html_path

    started = time.perf_counter()
    check_html_path(out)
    console = Console()
    console.print(f"Loading {MODEL} ...")
    model = load_quietly(MODEL, progress=False)

    from interp.patching import check_ablation, patch

    prompts = load_prompts(model, TASK, None, n, seed, {"template": TEMPLATE})
    third_name = load_prompts(model, TASK, None, n, seed, {"template": TEMPLATE, "corrupted": "abc"})
    if prompts.clean_text and prompts.corrupted_text:
        console.print("clean:     " + prompts.clean_text[0], markup=False, highlight=False)
        console.print("corrupted: " + prompts.corrupted_text[0], markup=False, highlight=False)
    scores = patch(model, prompts, SITES, direction="denoise", seed=seed, progress=progress)
    check = check_ablation(model, third_name, scores, k=heads, site="z", seed=seed, progress=progress)
    print_baselines(console, scores)
    print_top(console, scores, 8, "z", "Heads that matter (clean head output into the corrupted run)")
    print_ablation(console, check)
    console.print(ABLATION_NOTE)
    written = patching_report(scores, out, prompts=prompts, ablation=check, ablation_note=ABLATION_NOTE)
    seconds = time.perf_counter() - started
    console.print(
        f"Report: {written.absolute()}", style="bold", soft_wrap=True, highlight=False, markup=False
    )
    console.print(f"Took {seconds:.0f} s.", highlight=False)
