"""Options and inputs of the commands that steer: an attribute or files of prompts, a saved steering, neutral text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.models import Model
    from interp.steering import Steering

AttributeOption = Annotated[
    str | None,
    typer.Option(help="What to steer to, in the generated world: sentiment=positive, tense=past ..."),
]
PositiveOption = Annotated[Path | None, typer.Option(help="Prompts to steer to, one a line.")]
NegativeOption = Annotated[Path | None, typer.Option(help="Prompts to steer away from, one a line.")]
SiteOption = Annotated[
    str | None,
    typer.Option(help="Where it is read and acts: resid_post[2]; a middle layer by default."),
]
OperationOption = Annotated[str, typer.Option(help="add, project-out, clamp or rotate.")]
NeutralOption = Annotated[
    Path | None,
    typer.Option(help="Text that doses are measured on, one a line; generated text by default."),
]
ExtractOption = Annotated[int, typer.Option(help="Prompts a side that are generated.", min=8)]
SteeringSeedOption = Annotated[int, typer.Option(help="Of prompts, controls and samples.")]


@dataclass(frozen=True)
class Sides:
    """Prompts of both sides, and what they are."""

    positive: list[str]
    negative: list[str]
    target: str | None
    """Of the generated world; ``None`` for files."""


def check_source(
    attribute: str | None,
    positive: Path | None,
    negative: Path | None,
    loads: bool = False,
    judges: bool = False,
) -> None:
    """Refuse what can be refused before a model is loaded. Raises :class:`~interp.errors.SteeringError`.

    With ``loads`` a saved steering is enough; with ``judges`` there is one, and what it is judged by is missing.
    """
    from interp.errors import SteeringError
    from interp.steering.world import parse_target

    if (positive is None) != (negative is None):
        raise SteeringError("prompts come in two files: give --positive and --negative.")
    if attribute is not None and positive is not None:
        raise SteeringError("give --attribute, or --positive and --negative, not both.")
    if attribute is None and positive is None and judges:
        raise SteeringError(
            "say what to judge the steering by: --attribute sentiment=positive, or --positive FILE --negative FILE."
        )
    if attribute is None and positive is None and not loads:
        raise SteeringError(
            "say what to steer to: --attribute sentiment=positive, --positive FILE --negative FILE, or --load FILE."
        )
    if attribute is not None:
        parse_target(attribute)
    for path in (positive, negative):
        if path is not None:
            read_lines(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises :class:`~interp.errors.DataFileError` for a file that is missing, no text, or empty.
    """
    from interp.errors import DataFileError

    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}; give a text file with one prompt a line.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{str(path)!r} is no text in UTF-8; give a text file with one prompt a line."
        ) from error
    if not any(lines):
        raise DataFileError(f"{str(path)!r} holds no prompt; give one a line.")
    return [line for line in lines if line]


def draw_sides(
    attribute: str | None, positive: Path | None, negative: Path | None, n: int, seed: int
) -> Sides:
    """Both sides from the generated world or from files. Raises as :func:`check_source`."""
    from interp.steering.world import contrast_prompts

    if attribute is not None:
        return Sides(*contrast_prompts(attribute, n, seed), attribute)
    assert positive is not None and negative is not None
    return Sides(read_lines(positive), read_lines(negative), None)


def default_site(model: Model, site: str | None) -> str:
    """The site as given, or the residual stream after a layer just before the middle."""
    return f"resid_post[{(model.traits.n_layers - 1) // 2}]" if site is None else site


def check_file(path: Path) -> Steering:
    """A saved steering. Raises :class:`~interp.errors.DataFileError` for a file that holds none."""
    from interp.steering import load_steering

    return load_steering(path)
