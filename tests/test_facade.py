from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import interp


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(interp.__file__).parent.parent,
    ).stdout.strip()


def test_import_loads_nothing_heavy():
    loaded = _run("import sys, interp; print(*sys.modules)").split()
    heavy = {"torch", "numpy", "pandas", "plotly", "transformers", "transformer_lens", "datasets", "typer"}
    assert "interp" in loaded
    assert not heavy & set(loaded)
    assert [name for name in loaded if name.startswith("interp.")] == []


def test_errors_come_without_torch():
    assert _run("import sys, interp; interp.SiteError; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", ["tasks", "plots"])
def test_rooms_are_attributes(name):
    assert _run(f"import interp; print(interp.{name}.__name__)") == f"interp.{name}"


@pytest.mark.parametrize("name", interp.__all__)
def test_every_name_resolves(name):
    value = getattr(interp, name)
    assert getattr(interp, name) is value
    if name in interp._HOME:
        assert getattr(sys.modules[interp._HOME[name]], name) is value


def test_dir_and_all_agree():
    assert dir(interp) == sorted(interp.__all__)
    assert len(set(interp.__all__)) == len(interp.__all__)


@pytest.mark.parametrize(
    ("wrong", "right"), [("load_modle", "load_model"), ("task", "tasks"), ("logit_lense", "logit_lens")]
)
def test_unknown_name_suggests_the_nearest(wrong, right):
    with pytest.raises(AttributeError, match=rf"no attribute '{wrong}'; did you mean .*'{right}'"):
        getattr(interp, wrong)


def test_probes_get_a_plain_answer():
    assert getattr(interp, "__wrapped__", None) is None
    with pytest.raises(AttributeError, match=r"no attribute '_add'$"):
        _ = interp._add


def test_type_checkers_see_what_the_program_sees():
    """The ``TYPE_CHECKING`` imports and the table of lazy names say the same."""
    tree = ast.parse(Path(interp.__file__).read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(typed) == set(interp.__all__) - {"__version__"}
    for name, module in typed.items():
        assert getattr(importlib.import_module(module), name) is getattr(interp, name), name


def test_every_error_is_public():
    errors = {
        name
        for name, value in vars(importlib.import_module("interp.errors")).items()
        if isinstance(value, type) and issubclass(value, interp.InterpError)
    }
    assert errors == set(interp._EXPORTS["interp.errors"])
