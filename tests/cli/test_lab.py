"""``interp lab`` opens the tutorials where they may be edited."""

from __future__ import annotations

import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from interp import bundled_data


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Tutorials inside a package, as a wheel puts them."""
    package = tmp_path / "site" / "interp"
    (package / "_tutorials" / "data").mkdir(parents=True)
    (package / "_tutorials" / "01_hooks.ipynb").write_text("{}")
    (package / "_tutorials" / "data" / "x.csv").write_text("a")
    monkeypatch.setattr(bundled_data, "_PACKAGE", package)
    return package / "_tutorials"


@pytest.fixture
def started(monkeypatch):
    """Commands that would have run; each ends with status 3."""
    commands = []

    def start(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", start)
    return commands


def test_an_installed_package_gives_a_copy_and_keeps_edits(run, tmp_path, installed, started):
    copy = tmp_path / "interp-tutorials"
    result = run("lab", "--port", 9999, "--no-browser")
    assert result.exit_code == 3, result.output
    root = f"--ServerApp.root_dir={copy}"
    assert started == [[sys.executable, "-m", "jupyterlab", root, "--port=9999", "--no-browser"]]
    assert (copy / "data" / "x.csv").read_text() == "a"
    (copy / "01_hooks.ipynb").write_text("edited")
    (copy / "data" / "x.csv").unlink()
    run("lab")
    assert (copy / "01_hooks.ipynb").read_text() == "edited"
    assert (copy / "data" / "x.csv").is_file()


def test_print_command_starts_and_copies_nothing(run, tmp_path, installed, started):
    result = run("lab", "--print-command")
    assert shlex.split(result.stdout)[:3] == [sys.executable, "-m", "jupyterlab"]
    assert started == []
    assert not (tmp_path / "interp-tutorials").exists()


def test_a_checkout_opens_its_own_tutorials(run, tmp_path, monkeypatch):
    (tmp_path / "interp").mkdir()
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(bundled_data, "_PACKAGE", tmp_path / "interp")
    assert f"root_dir={tmp_path / 'tutorials'}" in run("lab", "--print-command").stdout


def test_without_tutorials_or_a_place_for_them(refuse, tmp_path, installed, started, monkeypatch):
    (tmp_path / "interp-tutorials").write_text("a file")
    assert "cannot copy the tutorials" in refuse("lab")
    monkeypatch.setattr(bundled_data, "_PACKAGE", tmp_path / "elsewhere")
    assert "carries no tutorials/" in refuse("lab")
    assert started == []
