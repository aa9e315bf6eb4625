"""The ``interp`` command: its commands, and what holds for all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.cli.attribute_tokens import run_tokens
from interp.cli.bench import bench_app
from interp.cli.catalogue import list_models, list_tasks
from interp.cli.compare_methods import run_comparison
from interp.cli.dashboard import run_dashboard
from interp.cli.errors import ErrorGroup
from interp.cli.evaluate_coder import run_evaluate_coder
from interp.cli.evaluate_steering import run_evaluate_steering
from interp.cli.find_circuit import run_find_circuit
from interp.cli.lab import open_lab
from interp.cli.patch import run_patch
from interp.cli.quickstart import run_quickstart
from interp.cli.search_sets import run_search
from interp.cli.steer import run_steer
from interp.cli.train import train_model
from interp.cli.train_coder import run_train_coder

app = typer.Typer(
    name="interp",
    cls=ErrorGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from interp import __version__

        typer.echo(f"interp {__version__}")
        raise typer.Exit


@app.callback()
def set_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """A workbench for looking into transformer language models."""


app.command("quickstart")(run_quickstart)
app.command("models")(list_models)
app.command("tasks")(list_tasks)
app.command("patch")(run_patch)
app.command("search-sets")(run_search)
app.command("find-circuit")(run_find_circuit)
app.command("compare-methods")(run_comparison)
app.command("attribute-tokens")(run_tokens)
app.command("train-coder")(run_train_coder)
app.command("evaluate-coder")(run_evaluate_coder)
app.command("dashboard")(run_dashboard)
app.command("steer")(run_steer)
app.command("evaluate-steering")(run_evaluate_steering)
app.command("lab")(open_lab)
app.command("train-model")(train_model)
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Run the command line, and exit with its status: 2 for an error in what was asked, 130 for Ctrl-C."""
    app()
