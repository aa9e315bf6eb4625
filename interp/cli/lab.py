"""``interp lab``: JupyterLab at the tutorials."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

COPY = "interp-tutorials"
"""Where an installed package's tutorials go, in the working folder: site-packages is not for editing."""


def open_lab(
    port: Annotated[int | None, typer.Option(help="JupyterLab's port.", min=1, max=65535)] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Print the command and leave; nothing is copied.")
    ] = False,
) -> None:
    """Open JupyterLab at the tutorials.

    From an installed package they are copied to ./interp-tutorials first; files that are there
    already stay as they are.
    """
    import subprocess

    from interp.bundled_data import tutorials_path
    from interp.errors import ExportError

    source = tutorials_path()
    # in a checkout the folder is the user's own
    folder = source if source.name == "tutorials" else Path.cwd() / COPY
    command = lab_command(folder, port, browser)
    if print_command:
        typer.echo(shlex.join(command))
        return
    if find_spec("jupyterlab") is None:
        raise ExportError("JupyterLab is not installed in this environment; pip install jupyterlab.")
    if folder != source:
        copy_missing(source, folder)
        typer.echo(f"Tutorials: {folder}")
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def lab_command(folder: Path, port: int | None, browser: bool) -> list[str]:
    """What starts JupyterLab in ``folder``, with this Python."""
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    if port is not None:
        command.append(f"--port={port}")
    return command if browser else [*command, "--no-browser"]


def copy_missing(source: Path, target: Path) -> None:
    """Copy files that ``target`` lacks, so that edited notebooks are kept.

    Raises :class:`~interp.errors.ExportError` when ``target`` cannot be written to.
    """
    from interp.errors import ExportError

    try:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            copy = target / path.relative_to(source)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    except OSError as error:
        raise ExportError(f"cannot copy the tutorials to {str(target)!r}: {error}.") from error
