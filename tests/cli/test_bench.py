"""``interp bench``: the list, options that do not fit, and figures only after the comparison."""

from __future__ import annotations

import csv

import pytest
import torch

from interp.bench import SweepPlan, gpu_pieces, kernel_cases, kernels, sweep
from interp.bench.cases import Shape
from interp.bench.kernel_case import KernelCase


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
    names += ["steering-maps", "kernels", "gpu"]
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


def list_sums(quick: bool) -> list[KernelCase]:
    """Two made-up kernels, the second of which is wrong."""

    def make(device, generator):
        return {"x": torch.randn(8, generator=generator).to(device)}

    known = dict(
        op="sum", shape={"n": 8}, dtype=torch.float32, make=make, n_bytes=36, n_flops=8, tolerance=1e-6
    )
    known |= dict(eager=lambda inputs: inputs["x"].sum())
    return [
        KernelCase(name="right", kernel=lambda inputs: inputs["x"].sum(), **known),
        KernelCase(
            name="wrong", kernel=lambda inputs: inputs["x"].sum() + 1, **known | dict(op="sum of more")
        ),
    ]


@pytest.fixture
def made_up(monkeypatch):
    defaults = (*kernels.run_kernels.__defaults__[:-1], list_sums)
    monkeypatch.setattr(kernels.run_kernels, "__defaults__", defaults)


@pytest.mark.interpreter
def test_kernels_are_checked_and_kept_before_the_command_fails(run, tmp_path, made_up):
    result = run("bench", "kernels", "--quick", "--device", "cpu", "--csv", "kernels.csv", "--op", "sum")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "kernels: 1 of 1 cases right; times await a GPU"
    result = run("bench", "kernels", "--device", "cpu", "--csv", "kernels.csv")
    assert result.exit_code == 2
    assert "1 of 2 cases right; WRONG: sum of more wrong n=8 float32" in result.stdout.splitlines()[-1]
    assert "error: 1 kernel cases are wrong, and no time is given for them" in result.stderr
    with (tmp_path / "kernels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["remark"][:6] for row in rows] == ["", "", "wrong:"]


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "sums"], "unknown operation 'sums'"),
        (["--dtype", "fp32"], "unknown dtype 'fp32'"),
        (["--minutes", 0], "more than 0"),
        (["--device", "gpu9"], "cannot be used"),
        (["--csv", "nowhere/kernels.csv"], "there is no folder"),
    ],
)
def test_kernels_that_are_none_are_refused(refuse, made_up, arguments, message):
    assert message in refuse("bench", "kernels", "--device", "cpu", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "'interp bench gpu --quick --device cpu' is a dry run"),
        (["--quick", "--device", "cpu", "--part", "sweeps"], "unknown part 'sweeps'"),
        (["--quick", "--device", "cpu", "--minutes", 0], "more than 0"),
        (["--quick", "--device", "gpu9"], "cannot be used"),
    ],
)
def test_a_gpu_is_asked_for_before_a_model_is_built(refuse, monkeypatch, arguments, message):
    monkeypatch.setattr(gpu_pieces, "build_gpt2", lambda *_: pytest.fail("a model was built"))
    assert message in refuse("bench", "gpu", *arguments)


def test_every_file_of_cases_is_asked():
    assert {case.op for case in kernel_cases.list_all_cases()}
