"""Options and inputs of the commands that look at a trained coder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from interp.coders.files import AnyCoder
    from interp.models import Model

CoderArgument = Annotated[
    str, typer.Argument(metavar="FOLDER", help="A coder's folder, a bundled one's name, or a hub id.")
]
CoderModelOption = Annotated[
    str | None,
    typer.Option(help="The model: a name, folder or hub id; by default the one it was trained on."),
]
DataOption = Annotated[
    str,
    typer.Option(
        help="generated (the bundled models' text), a file of texts or tokens, a folder of a data set, or a hub id."
    ),
]
PromptsOption = Annotated[int, typer.Option(help="Prompts that are read; of more the first ones.", min=1)]
TextSeedOption = Annotated[
    int, typer.Option(help="Of generated text (training takes 1), and of what is drawn.")
]
SplitOption = Annotated[
    str, typer.Option(help="Of generated text: train, or heldout, sentences that the models never saw.")
]


def open_coder(
    folder: str, model: str | None, device: torch.device | None, progress: bool
) -> tuple[AnyCoder, Model]:
    """A coder and its model on one device.

    Raises :class:`~interp.errors.CoderError` where neither says which model, and as loading either does.
    """
    from interp.cli.inputs import load_quietly
    from interp.coders.files import load_coder
    from interp.errors import CoderError

    path = Path(folder).expanduser()
    coder = load_coder(path if path.is_dir() else folder, device=device)
    name: Any = model or coder.metadata.get("model")
    if not isinstance(name, str):
        raise CoderError(
            f"the coder in {folder!r} does not say which model it was trained on; give it: --model NAME."
        )
    return coder, load_quietly(name, device, progress)


def read_latents(text: str) -> list[int] | int | None:
    """Latents named on the command line: numbers and ranges, so many at random, or ``None`` for all.

    Raises :class:`~interp.errors.CoderError` for text that is none of these.

    >>> read_latents("1,5,7-9"), read_latents("random:20"), read_latents("all")
    ([1, 5, 7, 8, 9], 20, None)
    """
    from interp.errors import CoderError

    wanted = text.strip().lower()
    if wanted == "all":
        return None
    if match := re.fullmatch(r"random:(\d+)", wanted):
        return int(match[1])
    found: list[int] = []
    for part in wanted.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise CoderError(f"latents are written 1,5,7-9 or random:20 or all; got {text!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise CoderError(f"the range {part.strip()} of latents ends before it begins.")
        found += range(first, last + 1)
    return found
