"""``interp bench``: the list, options that do not fit, and figures only after the comparison."""

from __future__ import annotations

import csv

import pytest

from interp.bench import SweepPlan, sweep
from interp.bench.cases import Shape


@pytest.fixture
def tiny_quick(monkeypatch):
    """``--quick`` on a model that takes a moment."""
    plan = SweepPlan((Shape(2, 32, 2, 97),), (10,), peer="sample", sample=2, repeats=1, between=1, threads=1)
    monkeypatch.setattr(SweepPlan, "quick", lambda seed: plan)


def test_alone_it_lists_the_benchmarks(run):
    result = run("bench")
    assert result.exit_code == 0
    names = ["sweep", "growth", "attribution", "methods", "edges", "recovery"]
    names += ["coder-memory", "coder-step", "coders", "coder-models"]
    names += ["steering", "steering-bake", "steering-gates"]
    names += ["steering-maps"]
    assert [line.split()[0] for line in result.stdout.splitlines()] == names
    for name in names:
        assert "--quick" in run("bench", name, "--help").stdout


def test_figures_are_on_the_last_line_and_in_the_file(run, tmp_path, tiny_quick):
    for _ in range(2):
        result = run("bench", "sweep", "--quick", "--csv", "sweep.csv", "--difference", 4)
        assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("resid_pre 2x32@4: ")
    assert "; z 2x32@4: " in result.stdout.splitlines()[-1]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["site"] for row in rows} == {"resid_pre", "z"}
    assert {row["first_difference"] for row in rows} == {"4"}
    assert len(rows) == 2 * len({(row["site"], row["peer"], row["peer_autograd"]) for row in rows})


def test_no_figure_for_wrong_numbers(refuse, run, monkeypatch, tiny_quick):
    right = sweep.patch

    def wrong(*args, **kwargs):
        scores = right(*args, **kwargs)
        next(iter(scores.sites.values())).raw.add_(1.0)
        return scores

    monkeypatch.setattr(sweep, "patch", wrong)
    assert "the scores differ from the peer's" in refuse("bench", "sweep", "--quick", "--csv", "sweep.csv")
    assert run("bench", "sweep", "--quick").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "6x500"], "LAYERSxWIDTH"),
        (["--difference", 16], "from 0 to 15"),
        (["--peer", "some"], "Known: all, headline, sample"),
        (["--device", "gpu9"], "cannot be used"),
        (["--csv", "nowhere/sweep.csv"], "there is no folder"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_built(refuse, monkeypatch, arguments, message):
    monkeypatch.setattr(sweep, "build_gpt2", lambda *_: pytest.fail("a model was built"))
    assert message in refuse("bench", "sweep", *arguments)
