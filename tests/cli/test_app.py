"""What holds for all commands: help, version, and how failures look."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import typer
from typer.testing import CliRunner

import interp
from interp.cli.errors import ErrorGroup
from interp.errors import TaskError

COMMANDS = [
    "quickstart",
    "models",
    "tasks",
    "patch",
    "search-sets",
    "find-circuit",
    "train-coder",
    "evaluate-coder",
    "dashboard",
    "steer",
    "evaluate-steering",
    "lab",
    "train-model",
    "bench",
]


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['interp', '--help']\n"
        "from interp.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'plotly', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage: interp" in result.output


def test_version_and_unknown_commands(run):
    assert run("--version").stdout.strip() == f"interp {interp.__version__}"
    assert run("patchh").exit_code == 2
    assert run("patch", "--n", 0).exit_code == 2


def _app():
    app = typer.Typer(cls=ErrorGroup)

    @app.callback()
    def options(debug: bool = False) -> None: ...

    @app.command()
    def fail(kind: str) -> None:
        warnings.warn("mind the [gap]", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        raise {
            "ours": TaskError("too [few] prompts"),
            "theirs": ZeroDivisionError(),
            "ctrl-c": KeyboardInterrupt(),
        }[kind]

    return app


@pytest.mark.filterwarnings("default")
def test_ours_is_one_message_and_warnings_are_lines():
    result = CliRunner().invoke(_app(), ["fail", "ours"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["warning: mind the [gap]", "error: too [few] prompts"]
    assert result.stdout == ""


@pytest.mark.filterwarnings("default")
def test_debug_shows_the_traceback():
    result = CliRunner().invoke(_app(), ["--debug", "fail", "ours"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


@pytest.mark.filterwarnings("default")
def test_ctrl_c_ends_with_130_and_a_bug_is_not_hidden():
    assert CliRunner().invoke(_app(), ["fail", "ctrl-c"]).exit_code == 130
    assert isinstance(CliRunner().invoke(_app(), ["fail", "theirs"]).exception, ZeroDivisionError)
