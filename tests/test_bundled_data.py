from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interp import bundled_data
from interp.bundled_data import data_path, notebooks_path, tutorials_path
from interp.errors import DataFileError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own: a package folder with data beside it."""
    model = tmp_path / "data" / "models" / "mix-4l"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(bundled_data, "_PACKAGE", tmp_path / "interp")
    return tmp_path


def test_this_checkout_has_all_three_folders():
    assert (data_path("models") / "mix-4l" / "model.safetensors").is_file()
    assert sorted(tutorials_path().glob("*.ipynb"))
    assert sorted(notebooks_path().glob("*.ipynb"))


def test_found_beside_the_package(checkout):
    assert data_path("models/mix-4l") == checkout / "data" / "models" / "mix-4l"
    assert data_path() == checkout / "data"


def test_a_wheel_s_own_copy_comes_first(checkout):
    (checkout / "interp" / "_data" / "models").mkdir(parents=True)
    assert data_path("models") == checkout / "interp" / "_data" / "models"


def test_missing_file_names_place_and_nearest(checkout):
    with pytest.raises(DataFileError) as caught:
        data_path("models/mix-41")
    message = str(caught.value)
    assert "'models/mix-41'" in message
    assert str(checkout / "data") in message
    assert "did you mean 'models/mix-4l'" in message
    assert "install interp again" in message


def test_a_missing_file_is_no_crash_when_nothing_is_near(checkout):
    with pytest.raises(DataFileError, match=r"no bundled file 'zzz' in '.*'\. A complete"):
        data_path("zzz")


def test_missing_folder_says_where_it_looked(checkout):
    with pytest.raises(DataFileError, match="carries no tutorials/") as caught:
        tutorials_path()
    assert str(checkout / "interp" / "_tutorials") in str(caught.value)
    assert str(checkout / "tutorials") in str(caught.value)


def test_somebody_else_s_data_folder_is_not_taken(checkout):
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(DataFileError, match="carries no data/"):
        data_path("models")


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/hosts", "models/../../pyproject.toml"])
def test_paths_out_of_the_folder_are_refused(checkout, name):
    with pytest.raises(DataFileError, match=r"inside data/"):
        data_path(name)


def test_the_wheel_carries_data_tutorials_and_notebooks(root: Path, tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=root)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"interp"}
    program = (
        "from interp.bundled_data import data_path, notebooks_path, tutorials_path\n"
        "for path in data_path(), notebooks_path(), tutorials_path():\n"
        "    print(path, sum(p.is_file() for p in path.rglob('*')))"
    )
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{program}"]
    found = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    for line, folder in zip(found.splitlines(), ("data", "notebooks", "tutorials"), strict=True):
        path, count = line.rsplit(" ", 1)
        assert path == str(site / "interp" / f"_{folder}")
        assert int(count) == len(_tracked(root / folder))


def _tracked(folder: Path) -> list[Path]:
    hidden = {".ipynb_checkpoints", "__pycache__"}
    return [path for path in folder.rglob("*") if path.is_file() and not hidden & set(path.parts)]
