"""What every ``interp bench`` command shares: options, the device and file of a run, and how it is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from interp.bench import Report

QuickOption = Annotated[bool, typer.Option("--quick", help="Fewer sizes and repeats: within a minute.")]
CsvOption = Annotated[Path | None, typer.Option(help="Append the rows to this CSV file.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, prompts and sampled sites.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Of PyTorch; by default as many as it has.", min=1)]
ShapesOption = Annotated[
    list[str] | None, typer.Option(help="LAYERSxWIDTH of a GPT-2 model; may be repeated.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]


def share_cores(quick: bool) -> None:
    """Let threads sleep while they wait, which OpenMP reads when torch is loaded.

    By default they spin; where another process has a core, every small operation then waits for a
    turn of the scheduler, and a quick look takes minutes and measures nothing.
    """
    if quick and "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_run(
    device: str, csv: Path | None, kind: type[Any]
) -> tuple[torch.device | None, Callable[[Sequence[Any]], None] | None]:
    """The device, and what writes rows; a file that does not fit is refused before anything is measured."""
    from interp.bench import append_rows, check_rows_file, describe_setting
    from interp.cli.inputs import check_device

    where = check_device(device)
    if csv is None or where is None:
        return where, None
    check_rows_file(csv, kind)
    return where, lambda rows: append_rows(csv, describe_setting(where), rows)


def say(line: str) -> None:
    """Tell on standard error what is being done."""
    typer.echo(line, err=True)


def print_report(report: Report[Any], csv: Path | None) -> None:
    """Tables, notes, and the figures on the last line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for part in report.tables:
        table = Table(box=SIMPLE_HEAD)
        for number, heading in enumerate(part.headings):
            table.add_column(escape(heading), justify="right" if number else "left", no_wrap=not number)
        for cells in part.cells:
            table.add_row(*map(escape, cells))
        console.print(part.title, style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(table)
    for note in report.notes:
        console.print(note, highlight=False, markup=False)
    if csv is not None:
        console.print(f"Written: {csv.absolute()}", soft_wrap=True, highlight=False, markup=False)
    typer.echo(report.last_line)
