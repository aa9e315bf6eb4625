"""``interp train-coder``: sparse coders from a TOML file or from options, in a folder that training goes on in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.errors import INTERRUPTED
from interp.cli.options import DeviceOption, ProgressOption

if TYPE_CHECKING:
    import torch

    from interp.coders.plan import TrainingPlan

_SECTION_OF = {
    "coder": ("architecture", "activation", "d_sae", "k", "sparsity"),
    "training": ("tokens", "batch_size", "learning_rate", "optimizer", "target_l0", "seed"),
    "activations": ("model", "site", "target", "data", "n", "length", "gradients", "cache"),
}
"""Where options stand in a file."""


def run_train_coder(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="A .toml file; options given beside it stand in its place.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder; the same command with it goes on where it was.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A bundled name, a folder or a hub id.  [default: mix-4l]")
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Where it reads: mlp_out[2], z[0] or, of several layers, mlp_in[0-3].")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What a transcoder predicts; mlp_out where it reads mlp_in.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="standard, gated, topk, batch-topk, jumprelu, matryoshka, gradient, discrete; transcoder, "
            "skip-transcoder, cross-layer-transcoder, crosscoder."
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="How a transcoder or crosscoder fires: topk, batch-topk, jumprelu ...")
    ] = None,
    d_sae: Annotated[int | None, typer.Option(help="Latents.", min=1)] = None,
    k: Annotated[int | None, typer.Option(help="Latents that fire on a token.", min=1)] = None,
    sparsity: Annotated[float | None, typer.Option(help="Weight of the penalty of kinds without k.")] = None,
    target_l0: Annotated[
        float | None, typer.Option(help="Latents that shall fire, of kinds without k.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="generated (the bundled models' text, the default), a file of texts or tokens, a folder of a data "
            "set, or a hub id."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Prompts: all of a file, 8192 generated ones by default.", min=1)
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens of a generated prompt.  [default: 64]", min=2)
    ] = None,
    gradients: Annotated[
        bool | None, typer.Option(help="Take the loss' gradients along, as gradient coders need.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep activations in this folder.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="To train on; by default once through the data.", min=1)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Tokens a step.  [default: 4096]", min=1)] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="By default from the number of latents.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or schedule-free.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and of the tokens' order.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained on what, and leave.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete what this command left in --out, and begin anew.")
    ] = False,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Train sparse coders: autoencoders, transcoders and crosscoders, one or several side by side.

    interp train-coder --model mix-4l --site "mlp_out[2]" --architecture topk --d-sae 512 --k 16 --out sae

    The folder gets the coder, its curves and a report. Stopped at any moment, the same command goes on.
    """
    given = {name: value for name, value in context.params.items() if value is not None}
    plan = _make_plan(config, given, out)

    from rich.console import Console

    from interp.cli.inputs import check_device, load_quietly

    where = check_device(device)
    console = Console()
    if dry_run:
        from interp.cli.coder_tables import print_plan

        print_plan(console, plan, load_quietly(plan.activations.model, where, progress))
        return
    _train(console, plan, where, restart, progress)


def _make_plan(config: Path | None, given: Mapping[str, Any], out: Path | None) -> TrainingPlan:
    """The plan of a file with options in place of its values, or of options alone."""
    from interp.coders.plan_file import load_values, plan_from_values
    from interp.errors import CoderError, InterpError

    values = {} if config is None else load_values(config)
    overlaid = {section: dict(keys) for section, keys in values.items()}
    for section, names in _SECTION_OF.items():
        found = {name: str(v) if isinstance(v := given[name], Path) else v for name in names if name in given}
        if section == "coder" and found and "coders" in values:
            raise CoderError(
                f"--{next(iter(found)).replace('_', '-')} is of one coder, and the file has several; change it there."
            )
        if found:
            overlaid[section] = {**overlaid.get(section, {}), **found}
    if out is not None:
        overlaid["output"] = {"folder": str(out)}
    if config is None:
        missing = [name for name in ("site", "architecture", "d_sae") if name not in given]
        if missing:
            option = missing[0].replace("_", "-")
            raise CoderError(f"give --{option}, or a file: --config coder.toml.")
    _place_sites(overlaid, given)
    try:
        return plan_from_values(overlaid)
    except InterpError as error:
        if config is None:
            raise
        raise type(error)(f"{str(config)!r}: {error}") from error


def _place_sites(overlaid: dict[str, dict[str, Any]], given: Mapping[str, Any]) -> None:
    """A site of the command line stands in place of the coder's own, and of the target that went with it."""
    if "site" not in given and "target" not in given:
        return
    for name in ("site", "target"):
        overlaid.get("coder", {}).pop(name, None)
        if name not in given and "site" in given:
            overlaid["activations"].pop(name, None)


def _train(
    console: Any, plan: TrainingPlan, where: torch.device | None, restart: bool, progress: bool
) -> None:
    from interp.cli.coder_outputs import write_training_report
    from interp.cli.coder_tables import print_trained
    from interp.cli.inputs import load_quietly
    from interp.coders.planned_training import SUMMARY, run_training_plan
    from interp.reports import check_writable

    if plan.out is not None:
        check_writable(plan.out / SUMMARY)
    with _resumable(plan.out):
        trained = run_training_plan(
            plan,
            device="cpu" if where is None else where,
            restart=restart,
            load=lambda name: load_quietly(name, where, progress),
            progress=progress,
        )
    report = write_training_report(trained)
    print_trained(console, trained)
    for path in (*trained.folders.values(), report):
        console.print(f"Written: {path.absolute()}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _resumable(out: Path | None) -> Iterator[None]:
    """Say on Ctrl-C that nothing is lost, and leave with the status of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on from the checkpoint in {str(out)!r}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
