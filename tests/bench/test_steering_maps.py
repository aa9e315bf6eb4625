"""The benchmark of learned maps: its rows, its gate, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from interp.bench import SteeringMapsPlan, run_steering_maps
from interp.bench import steering_maps as bench
from interp.bench.steering_maps_report import (
    EQUAL,
    FITTED,
    PATH,
    SteeringMapsRow,
    estimate,
    report_steering_maps,
)
from interp.errors import BenchError, SteeringError

PLAN = SteeringMapsPlan(
    ("formality=formal",), 1, n_fit=8, n_prompts=6, n_tokens=20, n_neutral=2, steps=2, path=(0.03,), seed=3
)


@pytest.fixture
def few_methods(monkeypatch):
    """Two of the methods: the others are only more of the same."""
    every = bench.methods_of
    kept = ("mean difference, layer 2", "LinEAS, sparse")
    monkeypatch.setattr(
        bench,
        "methods_of",
        lambda plan, seed: {name: fit for name, fit in every(plan, seed).items() if name in kept},
    )


def test_every_method_as_fitted_and_at_one_dose(few_methods):
    kept = []
    report = run_steering_maps(PLAN, keep=kept.extend)
    assert kept == list(report.rows) or len(kept) == len(report.rows)
    methods = ["unsteered", "mean difference, layer 2", "LinEAS, sparse"]
    found = [(row.setting, row.method) for row in report.rows]
    assert sorted(found) == sorted(
        [(PATH, "LinEAS, adam"), (PATH, "LinEAS, sgd")]
        + [(setting, method) for setting in (FITTED, EQUAL) for method in methods]
        + [(EQUAL, "random direction")]
    )
    by = {(row.setting, row.method): row for row in report.rows}
    for method in (*methods[1:], "random direction"):
        row = by[EQUAL, method]
        # the dose is over all tokens, this KL over those that have a next one
        assert math.isnan(row.strength) or row.kl == pytest.approx(PLAN.dose, rel=0.15)
    assert by[FITTED, "unsteered"].kl == by[FITTED, "unsteered"].loss_added == 0
    assert by[FITTED, "mean difference, layer 2"].strength == 1
    assert {row.seed for row in report.rows} == {3}
    assert report.last_line.startswith("target rate/legal on formality=formal: unsteered ")
    assert [table.title.split(":")[0] for table in report.tables] == [
        "formality=formal, as fitted",
        "formality=formal, equal dose",
        "formality=formal, sparsity path, seed 3",
    ]


def test_every_promised_method_is_there():
    assert list(bench.methods_of(SteeringMapsPlan(), 0)) == [
        "mean difference, layer 2",
        "mean difference, all layers",
        "mean difference, sequential",
        "line maps, independent",
        "line maps, sequential",
        "gaussian maps, independent",
        "gaussian maps, sequential",
        "LinEAS",
        "LinEAS, sparse",
    ]


def test_a_fit_that_does_not_move_what_it_says_is_refused(monkeypatch):
    right = bench.fit_layerwise_maps
    monkeypatch.setattr(
        bench, "fit_layerwise_maps", lambda *args, **more: right(*args, **more).weighted([0.9])
    )
    with pytest.raises(BenchError, match="own mean difference"):
        run_steering_maps(PLAN)


def test_a_model_that_writes_no_legal_text_is_refused(monkeypatch):
    monkeypatch.setattr(
        bench.WrittenWords,
        "read",
        lambda self, *args: {"legal": bench_tally(0.5), "generated": bench_tally(0.0)},
    )
    with pytest.raises(BenchError, match=r"0\.500 of the unsteered"):
        run_steering_maps(PLAN)


def bench_tally(value: float):
    import torch

    from interp.steering.evaluate.tally import Tally

    return Tally.of(torch.tensor([value]), torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"seeds": 0}, BenchError),
        ({"n_fit": 1}, BenchError),
        ({"dose": 0.0}, BenchError),
        ({"path": (0.0,)}, BenchError),
        ({"targets": ()}, BenchError),
        ({"targets": ("tense=past",)}, BenchError),
        ({"targets": ("formality=loud",)}, SteeringError),
    ],
)
def test_plans_that_cannot_be_are_refused(fields, error):
    with pytest.raises(error):
        SteeringMapsPlan(**fields)


def row(method="LinEAS", **changes):
    known = SteeringMapsRow(
        "formality=formal", method, FITTED, 0, 32, 48, 0.0, 1.0, 1.0, 0.5, 0.9, 0.02, 0.01, 0.2, 1.0
    )
    return replace(known, **changes)


def test_means_and_intervals_over_seeds_and_dashes():
    rows = [row(seed=i, target_rate=rate) for i, rate in enumerate((0.4, 0.6, 0.5))]
    rows.append(row("gaussian", target_rate=math.nan, legal=math.nan))
    assert estimate(rows[:3], "target_rate").value == pytest.approx(0.5)
    report = report_steering_maps(rows, "1 thread")
    (table,) = report.tables
    assert table.cells[0][1].startswith("0.500 ±0.248")
    assert table.cells[1][1] == "-"
    assert "LinEAS 0.50/0.90" in report.last_line
