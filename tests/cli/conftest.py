"""The command line run in this process, and a task file for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Run ``interp ARGUMENTS`` in an empty folder, in a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def invoke(*arguments: object) -> Any:
        from interp.cli import app

        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="interp")

    return invoke


@pytest.fixture
def refuse(run, tmp_path) -> Callable[..., str]:
    """Run a command that must fail as ours do: status 2, one message on stderr, no new file."""

    def invoke(*arguments: object) -> str:
        before = set(tmp_path.rglob("*"))
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("error: ") == 1
        assert "Traceback" not in result.stderr
        assert set(tmp_path.rglob("*")) == before
        return str(result.stderr)

    return invoke


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Pairs for ``micro`` that differ in the name asked for."""
    path = tmp_path / "pairs.csv"
    path.write_text(
        "clean,corrupted,answer,wrong\n"
        "flip : dan hot bob cold ask bob =,flip : dan hot bob cold ask dan =, yes, no\n"
        "flip : ann hot cat cold ask cat =,flip : ann hot cat cold ask ann =, yes, no\n"
    )
    return path
