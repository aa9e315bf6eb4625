"""``interp attribute-tokens``: what each input token contributes, as coloured text."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.options import (
    DeviceOption,
    MetricOption,
    ModelOption,
    OutOption,
    ProgressOption,
    TaskFileOption,
    TaskOption,
    TaskOptionsOption,
)


def run_tokens(
    model: ModelOption = "mix-4l",
    task: TaskOption = None,
    task_file: TaskFileOption = None,
    option: TaskOptionsOption = None,
    method: Annotated[
        str, typer.Option(help="Any of interp patch --method; exact replaces every token and runs.")
    ] = "relevance",
    against: Annotated[
        str,
        typer.Option(help="What a token is replaced by: zero, source, mean, mean-per-position, resample."),
    ] = "zero",
    run: Annotated[str, typer.Option(help="clean or corrupted prompts.")] = "clean",
    metric: MetricOption = None,
    n: Annotated[int | None, typer.Option(help="Prompt pairs: 16 by default, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Which prompts, and the choices of resample.")] = 0,
    check: Annotated[
        bool, typer.Option(help="Mask the first, the last and random tokens, and compare the damage.")
    ] = True,
    shown: Annotated[int, typer.Option(help="Prompts printed.", min=0)] = 6,
    out: OutOption = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Score every token of every prompt, print them in colour, and test whether the ranking means anything.

    interp attribute-tokens --model mix-4l --task ioi --method relevance --out tokens.html
    """
    from rich.console import Console

    from interp.cli.inputs import (
        check_choices,
        check_device,
        check_method,
        load_prompts,
        load_quietly,
        parse_options,
    )
    from interp.cli.outputs import check_outputs, write_scores
    from interp.cli.tables import print_tokens
    from interp.patching.prepared import check_choice
    from interp.patching.token_scores import RUNS, attribute_tokens

    outputs = check_outputs(out or [])
    options, where = parse_options(option or []), check_device(device)
    check_choices(task, task_file, "denoise", against, metric)
    check_method(method)
    check_choice("run", run, RUNS)
    loaded = load_quietly(model, where, progress)
    prompts = load_prompts(loaded, task, task_file, n if task_file is not None else n or 16, seed, options)
    found = attribute_tokens(
        loaded,
        prompts,
        run=run,  # type: ignore[arg-type]
        method=method,
        against=against,  # type: ignore[arg-type]
        metric=metric,
        seed=seed,
        progress=progress,
    )
    console = Console()
    console.print(found.provenance.summary(), markup=False, highlight=False)
    print_tokens(console, found, shown)
    masked = None
    if check:
        from interp.patching import check_masking

        masked = check_masking(loaded, prompts, found, metric=metric, seed=seed, progress=progress)
        console.print(masked.summary(), highlight=False, markup=False)
    for path in outputs:
        written = write_scores(path, found, prompts, masked).absolute()
        console.print(f"Written: {written}", soft_wrap=True, highlight=False, markup=False)
