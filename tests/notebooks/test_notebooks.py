"""Every notebook runs from top to bottom, offline, and keeps to the rules for its kind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
WORKBENCHES = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CODE_CELLS = 40
MAX_CELL_LINES = 15
TIMEOUT = 300
"""Seconds a notebook's cell may take."""

SECTIONS = {
    "what it promises": "**What you will be able to do.**",
    "how long it takes": "**Time.**",
    "set-up": "## Set-up",
    "a baseline": "## A sanity baseline",
    "predictions": "**Predict before you run.**",
    "limits": "## What this does **not** show",
    "exercises": "## Exercises",
    "collapsed solutions": "<details><summary>Solution",
    "what next": "## What next",
}
FORBIDDEN = ("!pip", "%pip", "plotly", "matplotlib", "imshow", ".show()")
_SOLUTION = re.compile(r"<details><summary>Solution (\d+)</summary>.*?```python\n(.*?)```.*?</details>", re.S)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def solutions(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The code of every collapsed solution, by the number of its exercise."""
    found = _SOLUTION.findall("\n".join(sources(notebook, "markdown")))
    return dict(found)


def with_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with each exercise solved as its text says, and checked by its own checker."""
    for number, code in solutions(notebook).items():
        solved = f"{code}\nassert check_{number}(answer_{number}), 'solution {number} fails its own check'"
        notebook.cells.append(nbformat.v4.new_code_cell(solved))
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run every cell in a fresh kernel; fails with the source of the cell that raised."""
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(f"a cell raised {error.ename}: {error.evalue}\n\n{error}", pytrace=False)
    except CellTimeoutError as error:
        pytest.fail(f"a cell took over {TIMEOUT} s\n\n{error}", pytrace=False)
    except DeadKernelError as error:
        pytest.fail(f"the kernel died: {error}", pytrace=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel inherits: this checkout, no network, one thread, figures as plain data."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def name(path: Path) -> str:
    return path.stem


@pytest.mark.tutorial
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", [*TUTORIALS, *WORKBENCHES], ids=name)
def test_runs_and_its_solutions_pass(path: Path, tmp_path: Path, offline: None):
    copied = Path(shutil.copy(path, tmp_path))
    execute(with_solutions(read(copied)), tmp_path)


@pytest.mark.tutorial
@pytest.mark.filterwarnings("default")
def test_a_failing_cell_is_named(tmp_path: Path, offline: None):
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("level = 3\nassert level == 4, 'no'")])
    with pytest.raises(pytest.fail.Exception, match=r"raised AssertionError: no(.|\n)*assert level == 4"):
        execute(broken, tmp_path)


def test_there_are_notebooks_of_both_kinds():
    assert TUTORIALS and WORKBENCHES


@pytest.mark.parametrize("path", [*TUTORIALS, *WORKBENCHES], ids=name)
def test_is_valid_and_carries_no_outputs(path: Path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    identities = [cell.id for cell in notebook.cells]
    assert len(set(identities)) == len(identities)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


@pytest.mark.parametrize("path", [*TUTORIALS, *WORKBENCHES], ids=name)
def test_cells_are_few_and_short(path: Path):
    code = sources(read(path), "code")
    assert len(code) <= MAX_CODE_CELLS
    for source in code:
        assert len(source.splitlines()) <= MAX_CELL_LINES, source
        assert not any(word in source for word in FORBIDDEN), source


@pytest.mark.parametrize("path", TUTORIALS, ids=name)
def test_tutorial_has_every_part(path: Path):
    text = "\n".join(sources(read(path), "markdown"))
    assert not [part for part, mark in SECTIONS.items() if mark not in text]


@pytest.mark.parametrize("path", TUTORIALS, ids=name)
def test_tutorial_sets_up_in_two_cells_and_claims_in_asserts(path: Path):
    notebook = read(path)
    headings = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Set-up")]
    assert len(headings) == 1
    after = [cell.cell_type for cell in notebook.cells[headings[0] + 1 :]]
    assert 1 <= after.index("markdown") <= 2
    assert sum("assert " in source for source in sources(notebook, "code")) >= 8


@pytest.mark.parametrize("path", TUTORIALS, ids=name)
def test_every_exercise_has_a_tested_checker_and_a_solution(path: Path):
    notebook = read(path)
    code = "\n".join(sources(notebook, "code"))
    numbers = re.findall(r"^answer_(\d+) = None$", code, re.M)
    assert numbers and sorted(solutions(notebook)) == sorted(numbers)
    for number in numbers:
        assert f"def check_{number}(" in code
        assert re.search(rf"assert .*not check_{number}\(", code), f"check {number} never refuses anything"
        assert (
            f"answer_{number} =" in solutions(notebook)[number]
            or "def answer_" in solutions(notebook)[number]
        )
