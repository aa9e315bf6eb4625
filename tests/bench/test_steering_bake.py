"""The baking benchmark: its rows, its gate, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from interp.bench import steering_bake as bench
from interp.bench.steering_bake import BakePlan, run_bake
from interp.bench.steering_bake_report import BakeRow, estimate, headline, report_bake, report_of
from interp.errors import BenchError, RecordError

PLAN = BakePlan((1,), ("W_out",), (1.0,), 1, steps=3, n=16)


def test_every_setting_beside_its_controls():
    kept = []
    report = run_bake(PLAN, keep=kept.extend)
    assert kept == list(report.rows)
    asked = [row for row in report.rows if row.part == "abstention"]
    assert [(row.group, row.direction, row.known_target) for row in asked] == [
        ("untouched", "-", "-"),
        ("always on", "abstain", "-"),
        ("always on", "ignorance", "-"),
        ("always on", "random", "-"),
        ("CASAL", "abstain", "keep"),
        ("CASAL", "abstain", "away"),
        ("CASAL", "ignorance", "keep"),
        ("CASAL", "random", "keep"),
    ]
    untouched, abstain, *_ = asked
    assert untouched.made_up > 0.95 and untouched.known_right > 0.95
    # always on, the vector makes the model abstain from what it knows too
    assert abstain.known_right < 0.1 and abstain.unseen_abstained > 0.8
    gaps = {row.group: row for row in report.rows if row.part == "gap"}
    assert list(gaps) == ["bias", "orthogonal", "spectrum", "casal"]
    assert (
        max(gaps[name].largest_logit for name in ("bias", "orthogonal"))
        < 1e-4
        < gaps["spectrum"].largest_logit
    )
    assert gaps["bias"].kl_hooked == pytest.approx(0.3, rel=0.15)
    assert report.last_line.startswith("made up/known right, best of each: untouched ")
    assert len(report.tables[0].cells) == 8 and len(report.tables[1].cells) == 4


def test_no_figure_where_exact_is_not_equal(monkeypatch):
    monkeypatch.setattr(bench, "EXACT", 0.0)
    kept = []
    with pytest.raises(BenchError, match="bias is off its hooks"):
        run_bake(PLAN, keep=kept.extend)
    assert not kept


def row(group="CASAL", **changes):
    known = BakeRow(
        "abstention", "facts-3l", group, "abstain", 2, "mlp", "keep", 1.0, 0, 0.9, 0.0, 0.1, 0.9, 1.0, 0.0
    )
    return replace(known, **changes)


def test_means_over_seeds_and_the_best_setting():
    rows = [row(seed=i, made_up=value) for i, value in enumerate((0.1, 0.14, 0.12))]
    rows += [row(layer=0, seed=i, made_up=0.9) for i in range(3)]
    rows += [row("untouched", direction="-", made_up=1.0, known_right=1.0)]
    found = estimate(rows[:3], "made_up")
    # t of 97.5 % with two degrees of freedom, times the standard error
    assert found.value == pytest.approx(0.12)
    assert found.high - found.value == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
    assert "CASAL 0.120/0.900" in headline(rows) and "untouched 1.000/1.000" in headline(rows)
    record = report_of(rows)
    assert record.groups == ("CASAL", "CASAL", "untouched") and record.best("CASAL") == 0
    assert record.made_up[0, 0] == pytest.approx(0.12) and record.made_up[2].isnan()[1:].all()
    cells = report_bake(rows, "1 thread").tables[0].cells
    assert cells[0][0] == "CASAL L2 mlp, known keep: 1 abstain" and cells[0][1].startswith("0.120 ±0.050")
    with pytest.raises(RecordError, match="settings"):
        report_of([])


@pytest.mark.parametrize(
    "wrong",
    [dict(layers=()), dict(submodules=("W_Q",)), dict(steps=0), dict(learning_rate=0.0), dict(amounts=())],
)
def test_plans_that_cannot_be_run(wrong):
    with pytest.raises(BenchError):
        replace(PLAN, **wrong)
