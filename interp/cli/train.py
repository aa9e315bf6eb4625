"""``interp train-model``: make a bundled model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_model(
    name: Annotated[str, typer.Argument(help="A trained bundled model: mix-4l, induction-2l ...")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its tokenizer and its card.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Shorten the run to this many steps.", min=1)] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a bundled model again, and write it with its card."""
    from rich.console import Console
    from rich.table import Table

    from interp.errors import ExportError
    from interp.models.bundled.train import train_bundled
    from interp.reports import check_writable

    if out.exists() and not out.is_dir():
        raise ExportError(f"cannot write to {str(out)!r}: it is a file; name a folder.")
    check_writable(out / "model.safetensors")
    card = train_bundled(name, out, seed, steps, progress=progress)
    table = Table("held out", "value")
    for figure, value in card.heldout.items():
        table.add_row(figure, f"{value:.4f}")
    console = Console()
    console.print(table)
    console.print(f"Took {card.minutes:.1f} min.", highlight=False)
    console.print(f"Written: {out.absolute()}", soft_wrap=True, highlight=False, markup=False)
