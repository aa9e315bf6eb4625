"""Rules of the repository that no linter knows."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from pathlib import Path

import pytest

import interp

TOP_LEVEL = {"pyproject.toml", "interp", "notebooks", "tutorials", "tests", "data", "README.md", "LICENSE"}
DATA_LIMIT = 15_000_000
TEST_COMMAND = 'pip install -e ".[dev]" && pytest'


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    """Every file of the project: tracked, or new and not ignored; relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    return [Path(name) for name in listed.split("\0") if name and (root / name).is_file()]


@pytest.mark.git
def test_top_level_is_exactly_this(files):
    assert {path.parts[0] for path in files if not path.parts[0].startswith(".")} == TOP_LEVEL


@pytest.mark.git
def test_no_file_without_a_meaning(files):
    vague = re.compile(r"(utils?|helpers?|misc|common)\.py")
    assert [str(path) for path in files if vague.fullmatch(path.name)] == []


@pytest.mark.git
def test_data_is_small_and_holds_no_pickle(files, root):
    data = [path for path in files if path.parts[0] == "data"]
    assert data
    assert sum((root / path).stat().st_size for path in data) < DATA_LIMIT
    refused = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}
    assert [str(path) for path in data if path.suffix in refused] == []


@pytest.mark.git
def test_what_notebooks_write_is_not_kept(files):
    kept = [path for path in files if path.parts[0] in ("notebooks", "tutorials")]
    assert kept and [str(path) for path in kept if path.suffix != ".ipynb" or len(path.parts) > 2] == []


@pytest.mark.git
def test_notebooks_have_no_outputs(files, root):
    notebooks = [path for path in files if path.suffix == ".ipynb"]
    assert notebooks
    for path in notebooks:
        for number, cell in enumerate(json.loads((root / path).read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], f"{path}, cell {number}"
                assert cell["execution_count"] is None, f"{path}, cell {number}"


@pytest.mark.git
def test_skips_are_listed_in_conftest_only(files, root):
    elsewhere = re.compile(r"mark\.(skip|skipif|xfail)\b|pytest\.(skip|xfail|importorskip)\(")
    tests = [path for path in files if path.parts[0] == "tests" and path.suffix == ".py"]
    allowed = {Path("tests/conftest.py"), Path("tests/test_house.py")}
    found = [str(path) for path in tests if elsewhere.search((root / path).read_text(encoding="utf-8"))]
    assert set(found) - set(map(str, allowed)) == set()


@pytest.mark.parametrize("name", sorted(set(interp.__all__) - {"__version__"}))
def test_public_names_are_documented(name):
    value = getattr(interp, name)
    text = inspect.getdoc(value) or ""
    assert len(text.split()) >= 3, f"interp.{name} has no docstring"
    # a class without a docstring of its own shows its base's
    assert not inspect.isclass(value) or value.__doc__


def test_readme_has_the_command_that_ci_runs(root):
    assert TEST_COMMAND in (root / "README.md").read_text(encoding="utf-8").splitlines()


def test_version_is_in_the_changelog(root):
    assert f"## {interp.__version__}" in (root / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
