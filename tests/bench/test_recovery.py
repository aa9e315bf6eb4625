"""The recovery benchmark: its rows, its gate, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.bench import recovery as bench
from interp.bench.recovery import METHODS, RecoveryPlan, run_recovery
from interp.bench.recovery_report import RecoveryRow, headline
from interp.circuits.gradients import resolve_edge_method
from interp.errors import BenchError

PLAN = RecoveryPlan(("micro",), 1, ("exact", "eap"), n=12, directions=("noise",), seed=3)


def test_every_method_on_every_model():
    kept = []
    report = run_recovery(PLAN, keep=kept.extend)
    assert kept == list(report.rows)
    assert [(row.model, row.method) for row in report.rows] == [
        ("micro", "exact"), ("micro", "eap"), ("compiled-3", "exact"), ("compiled-3", "eap"),
    ]  # fmt: skip
    exact, eap = report.rows[:2]
    assert (exact.n_edges, exact.n_true, exact.n_prompts, exact.direction) == (110, 10, 12, "noise")
    assert exact.auroc == exact.average_precision == exact.f1_at_n_true == exact.node_auroc == 1
    assert eap.auroc == 0.85
    planted, precision, programs = report.tables
    assert planted.headings == ("method", "micro")
    assert planted.cells == [["exact", "1.000"], ["eap", "0.850"]]
    assert precision.cells[1] == ["eap", "0.727"]
    assert programs.title == "1 compiled program, noise"
    assert programs.cells[0] == ["exact", "1.000", "1.000", "1.000", "1.000"]
    assert "mean/worst of 2 known circuits: exact 1.000/1.000, eap 0." in report.last_line


def test_the_plan_names_every_method():
    for method in METHODS[1:]:
        assert resolve_edge_method(method) is not None
    assert set(RecoveryPlan.quick().planted) == set(RecoveryPlan().planted)
    assert RecoveryPlan.quick(5).seed == 5


def test_no_figure_where_exact_edges_miss_some(monkeypatch):
    right = bench.score_edges

    def wrong(*args, **kwargs):
        scores = right(*args, **kwargs)
        effects = scores.effects.clone()
        effects[scores.graph.find_edge("m1->logits")] = 0.0
        return replace(scores, effects=effects)

    monkeypatch.setattr(bench, "score_edges", wrong)
    with pytest.raises(
        BenchError, match="do not find the circuit of micro, noise: m1->logits should rank above"
    ):
        run_recovery(PLAN)


def test_the_last_line_has_the_mean_and_the_worst():
    known = RecoveryRow("m", 2, 9, 3, 4, 0, "noise", "eap", 0.9, 0.5, 0.5, 1.0, 1.0, 0.1)
    rows = [known, replace(known, auroc=0.5, model="n"), replace(known, auroc=1.0, direction="denoise")]
    assert headline(rows) == "AUROC of edges, mean/worst of 2 known circuits: eap 0.800/0.500"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n=0), "at least 1"),
        (dict(programs=-1), "programs at least 0"),
        (dict(methods=("eap", "exact")), "exact edges come first"),
        (dict(planted=(), programs=0), "nothing to measure"),
    ],
)
def test_plans_that_mean_nothing(changes, message):
    with pytest.raises(BenchError, match=message):
        replace(PLAN, **changes)
