"""``interp steer``: extract a direction or load one, and write with and without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.options import DeviceOption, ModelOption, ProgressOption
from interp.cli.steering_inputs import (
    AttributeOption,
    ExtractOption,
    NegativeOption,
    NeutralOption,
    OperationOption,
    PositiveOption,
    SiteOption,
    SteeringSeedOption,
)

if TYPE_CHECKING:
    from interp.models import Model
    from interp.steering import Steering


def run_steer(
    model: ModelOption = "mix-4l",
    attribute: AttributeOption = None,
    positive: PositiveOption = None,
    negative: NegativeOption = None,
    load: Annotated[Path | None, typer.Option(help="A steering that was saved, instead of prompts.")] = None,
    site: SiteOption = None,
    method: Annotated[str, typer.Option(help="How the direction is found.")] = "mean-difference",
    operation: OperationOption = "add",
    dose: Annotated[
        list[float] | None,
        typer.Option(
            help="Nats of KL on neutral text, 0.5 by default; negative: the other way; may be repeated."
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What is continued; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(help="New tokens.", min=1)] = 24,
    neutral: NeutralOption = None,
    n: ExtractOption = 128,
    seed: SteeringSeedOption = 0,
    save: Annotated[Path | None, typer.Option(help="Write the steering to a .safetensors file.")] = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Steer a model: what it writes without and with a direction, at a dose in nats.

    interp steer --attribute sentiment=positive --dose 0.3 --prompt "The baker" --save happy.safetensors
    """
    from rich.console import Console

    from interp.cli.inputs import check_device, load_quietly
    from interp.cli.steering_inputs import check_file, check_source
    from interp.errors import ExportError, SteeringError
    from interp.reports import check_writable

    if load is not None and (attribute or positive or negative):
        raise SteeringError("give --load, or what to extract from, not both.")
    if load is not None:
        _check_untouched(site, method, operation)
    check_source(attribute, positive, negative, loads=load is not None)
    if save is not None:
        if save.suffix != ".safetensors":
            raise ExportError(f"--save writes a file that ends in .safetensors; got {str(save)!r}.")
        check_writable(save)
    loaded = check_file(load) if load is not None else None
    doses = dose or [0.5]
    _check(doses, method, loaded)
    where = load_quietly(model, check_device(device), progress)
    if loaded is None:
        loaded = _extract(
            where, attribute, positive, negative, site, method, operation, neutral, n, seed, doses, progress
        )
    loaded = _calibrated(where, loaded, neutral, seed, doses, progress)
    console = Console()
    _print(console, where, loaded, doses, prompt or ["The baker"], tokens)
    if save is not None:
        path = loaded.save(save)
        console.print(f"Written: {path.absolute()}", soft_wrap=True, highlight=False, markup=False)


def _check(doses: list[float], method: str, loaded: Steering | None) -> None:
    from interp.errors import SteeringError, unknown_name
    from interp.steering.extract import DIRECTIONS

    if not all(dose and abs(dose) < float("inf") for dose in doses):
        raise SteeringError(f"a dose is a number of nats that is not 0; got {', '.join(map(str, doses))}.")
    if loaded is None and method not in DIRECTIONS:
        raise SteeringError(unknown_name("extraction method", method, DIRECTIONS))


def _check_untouched(site: str | None, method: str, operation: str) -> None:
    """A loaded steering has its own. Raises :class:`~interp.errors.SteeringError` for others."""
    from interp.errors import SteeringError

    asked = {
        "--site": site is not None,
        "--method": method != "mean-difference",
        "--operation": operation != "add",
    }
    for option, given in asked.items():
        if given:
            raise SteeringError(
                f"{option} is for an extraction; a loaded steering acts as it was saved. Leave out {option} or --load."
            )


def _extract(
    model: Model,
    attribute: str | None,
    positive: Path | None,
    negative: Path | None,
    site: str | None,
    method: str,
    operation: str,
    neutral: Path | None,
    n: int,
    seed: int,
    doses: list[float],
    progress: bool,
) -> Steering:
    from interp.cli.steering_inputs import default_site, draw_sides, read_lines
    from interp.steering import extract_steering

    sides = draw_sides(attribute, positive, negative, n, seed)
    return extract_steering(
        model,
        sides.positive,
        sides.negative,
        default_site(model, site),
        method,
        operation=operation,
        neutral=None if neutral is None else read_lines(neutral),
        max_dose=max(1.0, 1.2 * max(map(abs, doses))),
        paired=False,
        seed=seed,
        progress=progress,
    )


def _calibrated(
    model: Model, steering: Steering, neutral: Path | None, seed: int, doses: list[float], progress: bool
) -> Steering:
    """As it is, or with its dose measured on text that was given or where the file has no calibration."""
    from interp.cli.steering_inputs import read_lines
    from interp.steering import calibrate_dose

    if steering.calibration is not None and neutral is None:
        return steering
    text = None if neutral is None else read_lines(neutral)
    most = max(1.0, 1.2 * max(map(abs, doses)))
    return calibrate_dose(model, steering, text, max_dose=most, seed=seed, progress=progress)


def _print(
    console: object, model: Model, steering: Steering, doses: list[float], prompts: list[str], tokens: int
) -> None:
    """The steering, then for each prompt a line without it and one a dose."""
    from rich.console import Console

    assert isinstance(console, Console) and steering.calibration is not None

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def write(prompt: str) -> str:
        ids, mask = model.to_padded_tokens([prompt], padding_side="left")
        row = model.generate(ids, tokens, mask)[0, ids.shape[1] :]
        ends = getattr(model.tokenizer, "eos_token_id", None)
        stop = (row == ends).nonzero() if ends is not None else row[:0]
        return model.to_string(row[: int(stop[0])] if len(stop) else row)

    sites = ", ".join(map(str, steering.steps))
    say(f"{steering.method}: {sites}")
    say(f"calibration: {steering.calibration.summary()}")
    strengths = [float(steering.strength_for(dose)) for dose in doses]
    for dose, strength in zip(doses, strengths, strict=True):
        say(f"dose {dose:g} nats: strength {strength:.4g}")
    for prompt in prompts:
        say("")
        say(prompt)
        say(f"  {'unsteered':>10}  {write(prompt)}")
        for dose in doses:
            with steering.apply(model, dose=dose):
                say(f"  {f'{dose:g} nats':>10}  {write(prompt)}")
