"""The steering benchmark: its rows, its gate, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from interp.bench import steering as bench
from interp.bench.steering import SteeringPlan, run_steering
from interp.bench.steering_report import SteeringRow, headline, report_steering
from interp.errors import BenchError, SteeringError

PLAN = SteeringPlan(
    ("sentiment=positive",), ("mean-difference", "pca"), 1, coder=None, doses=(0.3,), n_extract=24, n=8, n_neutral=4,
    draws=1, seed=2,
)  # fmt: skip


def test_every_method_beside_its_controls():
    kept = []
    report = run_steering(PLAN, keep=kept.extend)
    assert kept == list(report.rows)
    names = [row.condition for row in report.rows]
    assert names == [
        "mean-difference", "pca", "mean-difference (pairs)", "pca (pairs)", "random direction",
        "orthogonal direction", "shuffled labels",
    ]  # fmt: skip
    first, *_, last = report.rows
    assert (first.seed, first.kind, last.kind, first.dose) == (2, "method", "shuffled", 0.3)
    assert first.kl == pytest.approx(0.3, rel=0.1) and first.concept > first.concept_unsteered + 0.2
    assert first.over_controls_low > 0 and math.isnan(last.over_controls)
    assert min(first.calibrate_seconds, first.generate_seconds, first.steered_seconds) > 0
    effect, cost, gain = report.tables
    assert effect.headings == ("condition", "concept", "over controls", "written")
    assert effect.cells[0][0] == "unsteered" and effect.cells[1][1] == f"{first.concept:.2f}"
    assert cost.headings[1:] == ("kept", "kept, written", "legal", "loss")
    assert gain.headings == ("condition", "gain at 0.3", "loss at 0.3")
    assert report.last_line.startswith("concept gain/loss at 0.3 nats: mean-difference ")


def row(condition="a", kind="method", **changes):
    known = SteeringRow(
        "tense=past", 0, condition, kind, "add(resid_post[1])", 1, 0.3, 5.0, 0.7, 0.6, 0.8, 0.2, 0.4, 0.3, 0.5,
        0.8, 0.1, 9.0, -3.0, 0.9, 0.8, 0.85, 0.8, 0.9, 0.8, 1.0, 0.3, 0.3, 0.2, 2.0, 0.1, 0.11,
    )  # fmt: skip
    return replace(known, **changes)


def test_gains_are_means_over_targets_and_intervals_over_seeds():
    values = {0: (0.6, 0.8), 1: (0.7, 0.9), 2: (0.5, 0.7)}
    rows = [
        row(seed=seed, target=target, concept=value)
        for seed, both in values.items()
        for target, value in zip(("tense=past", "topic=sea"), both, strict=True)
    ]
    rows += [row("random direction", "random", seed=seed, concept=0.25) for seed in values]
    # means 0.5, 0.6 and 0.4 less 0.2 without steering; t of 97.5 % with two degrees of freedom
    half = 4.302653 * 0.1 / 3**0.5
    assert headline(rows) == (
        f"concept gain/loss at 0.3 nats: a 0.50 ±{half:.2f}/0.30 ±0.00, random direction 0.05 ±0.00/0.30 ±0.00"
    )
    report = report_steering(rows, "threads: 1")
    assert [table.title for table in report.tables][-1].endswith("mean over 2 targets")
    assert "2.00 s" in report.notes[2] and "(x1.10)" in report.notes[2]


def test_a_dose_out_of_reach_is_a_dash():
    rows = [row(concept=math.nan, loss=math.nan), row("random direction", "random")]
    assert report_steering(rows, "").tables[0].cells[1][1] == "-"
    assert headline(rows).startswith("concept gain/loss at 0.3 nats: a -/-, random direction 0.50")


def test_no_figure_for_wrong_doses(monkeypatch):
    right = bench.equal_strengths
    monkeypatch.setattr(bench, "equal_strengths", lambda *args, **kwargs: 1.2 * right(*args, **kwargs))
    with pytest.raises(BenchError, match=r"a dose of 0\.3 nats"):
        run_steering(PLAN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seeds=0), "at least 1"),
        (dict(doses=(0.0,)), "doses above 0"),
        (dict(n=7), "at least 8"),
        (dict(methods=("mean", "pca")), "methods are some of mean-difference"),
        (dict(methods=()), "got none"),
    ],
)
def test_plans_that_mean_nothing(changes, message):
    with pytest.raises(BenchError, match=message):
        replace(PLAN, **changes)


def test_unknown_targets_and_the_quick_plan():
    with pytest.raises(SteeringError, match="did you mean 'tense'"):
        replace(PLAN, targets=("tens=past",))
    quick = SteeringPlan.quick(7)
    assert quick.seed == 7 and set(quick.targets) < set(SteeringPlan().targets)
