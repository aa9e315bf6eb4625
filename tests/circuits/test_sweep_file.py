"""Sweeps read from TOML and YAML, and options from text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interp.circuits.plan import SearchPlan, SweepPlan, TaskPlan
from interp.circuits.sweep_file import READERS, read_edges, read_options, read_sweep
from interp.errors import CircuitError, DataFileError, TaskError

TOML = """
models = ["mix-4l", "induction-2l"]
methods = ["relevance-edges", "exact", "acdc"]
edges = ["1%", 50, 0.02]
tau = 0.03
n = 8
seed = 4
min-faithfulness = 1
positions = "S1,END"

[[tasks]]
name = "ioi"
n = 4
label = "abba"
options = { template = "ABBA" }

[[tasks]]
file = "pairs.csv"
"""
YAML = """
model: [mix-4l, induction-2l]
method: relevance-edges, exact, acdc
edges: [1%, 50, 0.02]
tau: 0.03
n: 8
seed: 4
min_faithfulness: 1
positions: [S1, END]
task:
- name: ioi
  n: 4
  label: abba
  options: {template: ABBA}
- file: pairs.csv
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    (tmp_path / "pairs.csv").write_text("clean,corrupted,answer,wrong\n")

    def write(text: str, name: str = "sweep.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_both_formats_say_the_same(write: Any, tmp_path: Path) -> None:
    expected = SweepPlan(
        ("mix-4l", "induction-2l"),
        (
            TaskPlan(name="ioi", n=4, label="abba", options={"template": "ABBA"}),
            TaskPlan(file=tmp_path / "pairs.csv", n=8),
        ),
        ("relevance", "exact", "acdc"),
        {
            "edges": (0.01, 50, 0.02),
            "tau": (0.03,),
            "seed": 4,
            "min_faithfulness": 1.0,
            "positions": ("S1", "END"),
        },
    )
    assert read_sweep(write(TOML)) == expected
    assert read_sweep(write(YAML, "sweep.yaml")) == read_sweep(write(YAML, "sweep.yml")) == expected
    short = read_sweep(write("methods = ['eap']"))
    assert (short.models, [task.label for task in short.tasks], short.options) == (("mix-4l",), ["ioi"], {})
    named = read_sweep(write("methods = 'eap'\ntasks = 'ioi, greater_than'"))
    assert [task.name for task in named.tasks] == ["ioi", "greater_than"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = 'eap'\nedgs = 3", "unknown key of a sweep 'edgs'; did you mean 'edges'"),
        ("tasks = 'ioi'", "a sweep names its methods"),
        ("method = 'eapp'", "did you mean 'eap'"),
        ("method = 'eap'\nmethods = ['exact']", "methods is given twice"),
        ("method = 'eap'\nverify_top = 3\nverify-top = 3", "verify_top is given twice"),
        ("method = 'eap'\nmethods = 3", "methods is given twice"),
        ("methods = [3]", "methods is text; got int 3"),
        ("methods = []", "methods must not be empty"),
        ("method = 'eap'\nedges = 'few'", "written like 1%,2%"),
        ("method = 'eap'\nedges = [true]", "written like 1%,2%"),
        ("method = 'eap'\nedges = '1%,,2%'", "edges must not be empty"),
        ("method = 'eap'\nthreshold = 'a lot'", "written like 0.01,0.03"),
        ("method = 'eap'\nseed = 1.5", "seed is a whole number; got float 1.5"),
        ("method = 'eap'\nseed = true", "seed is a whole number"),
        ("method = 'eap'\nsigned = 'yes'", "signed is true or false; got str 'yes'"),
        ("method = 'eap'\nmin_faithfulness = 'high'", "min_faithfulness is a number"),
        ("method = 'eap'\nhow = ['top']", "how is text; got a list"),
        ("method = 'eap'\nn = '8'", "n is a whole number"),
        ("method = 'eap'\ntau = 0.1", "tau is for none of the methods"),
        ("method = 'eap'\ndevice = 'cuda'", "unknown key of a sweep 'device'"),
        ("method = 'eap'\ntasks = [3]", "a task is a name, or keys"),
        ("method = 'eap'\n[[tasks]]\nnam = 'ioi'", "unknown key of a task 'nam'; did you mean 'name'"),
        ("method = 'eap'\n[[tasks]]\nname = 'ioi'\noptions = 'x'", "options of a task are keys and values"),
        ("method = 'eap'\n[[tasks]]\nname = 'ioi'\nlabel = ''", "label is text"),
    ],
)
def test_what_cannot_be_read_is_refused(write: Any, text: str, message: str) -> None:
    with pytest.raises(CircuitError, match=rf"^'[^']*sweep\.toml': .*{message}"):
        read_sweep(write(text))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("method = 'eap'\ntask = 'iio'", TaskError, "did you mean 'ioi'"),
        ("method = 'eap'\n[[tasks]]\nname = 'ioi'\noptions = {tempalte = 1}", TaskError, "did you mean"),
        ("method = 'eap'\n[[tasks]]\nfile = 'no.csv'", DataFileError, r"no file at '.*no\.csv'"),
        ("method = ", DataFileError, "cannot be read"),
    ],
)
def test_other_errors_name_the_file_too(write: Any, text: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"sweep\.toml'.*{message}"):
        read_sweep(write(text))


def test_files_that_are_no_sweep(write: Any, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"ends in \.toml"):
        read_sweep(write("{}", "sweep.json"))
    with pytest.raises(DataFileError, match="no file at"):
        read_sweep(tmp_path / "none.toml")
    with pytest.raises(DataFileError, match="'edges' is given twice"):
        read_sweep(write("edges: 3\nmethod: eap\nedges: 4", "sweep.yaml"))
    with pytest.raises(DataFileError, match="cannot be read"):
        read_sweep(write("method: [eap", "sweep.yaml"))
    with pytest.raises(DataFileError, match="could not determine a constructor"):
        read_sweep(write("method: !!python/object/apply:os.getcwd []", "sweep.yaml"))
    with pytest.raises(CircuitError, match="holds a list"):
        read_sweep(write("- eap", "sweep.yaml"))
    with pytest.raises(CircuitError, match="holds nothing"):
        read_sweep(write("", "sweep.yaml"))


def test_every_option_of_a_plan_can_be_read() -> None:
    assert set(READERS) == set(vars(SearchPlan()))
    with pytest.raises(CircuitError, match="did you mean 'edges'"):
        read_options({"edgs": "1%"})


@given(st.integers(1, 99_999), st.integers(0, 4))
def test_percents_are_the_nearest_floats(digits: int, places: int) -> None:
    text = f"{digits / 10**places:.{places}f}%"
    assert read_edges(text) == (float(f"{digits}e-{places + 2}"),)


@given(st.lists(st.one_of(st.integers(1, 10**6), st.floats(1e-6, 1.0)), min_size=1, max_size=5))
def test_edges_are_the_same_as_text_and_as_values(amounts: list[float | int]) -> None:
    expected = tuple(amounts)
    assert read_edges(amounts) == expected
    assert read_edges(yaml.safe_load(json.dumps(amounts))) == expected
    texts = [repr(n) for n in amounts]
    found = read_edges(",".join(texts))
    assert found == expected and list(map(type, found)) == list(map(type, expected))
