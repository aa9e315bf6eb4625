"""The ground-truth benchmark: its rows, its gate, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from interp.bench import coders as bench
from interp.bench.coders import CodersPlan, run_coders
from interp.bench.coders_report import CodersRow, estimate, headline, report_coders
from interp.errors import BenchError

PLAN = CodersPlan(("hierarchy",), ("topk", "jumprelu"), 1, tokens=6000, n=600, seed=4)


def test_every_architecture_beside_random_directions():
    kept = []
    report = run_coders(PLAN, keep=kept.extend)
    assert kept == list(report.rows)
    assert [(row.architecture, row.seed) for row in report.rows] == [
        ("topk", 4),
        ("jumprelu", 4),
        ("random", 4),
    ]
    topk, _, random = report.rows
    assert (topk.n_features, topk.d_sae, topk.d_in, topk.tokens, random.tokens) == (48, 48, 64, 6000, 0)
    assert topk.l0 <= 3 and topk.fvu < random.fvu
    assert topk.mcc > random.mcc
    assert math.isnan(random.absorbed) and 0 <= topk.absorbed <= 1
    (table,) = report.tables
    assert table.headings == ("architecture", "MCC", "MMCS", "uniqueness", "F1", "FVU", "L0", "absorbed")
    assert table.cells[0][:2] == ["topk", f"{topk.mcc:.3f}"]
    assert report.last_line.startswith("MCC/FVU on hierarchy: topk ")
    assert f"random {random.mcc:.3f}/{random.fvu:.3f}" in report.last_line


def test_a_seed_draws_everything_anew_and_again():
    plan = replace(PLAN, architectures=("topk",), tokens=2000)
    first, again, other = (run_coders(replace(plan, seed=seed)).rows[0] for seed in (4, 4, 5))
    # parents without a latent have no rate, and NaN is unequal to itself
    assert replace(first, seconds=0, absorbed=0) == replace(again, seconds=0, absorbed=0)
    assert first.mcc != other.mcc


def row(architecture="topk", **changes):
    known = CodersRow(
        "superposition", architecture, 0, 64, 128, 128, 4.0, 10, 0.9, 0.9, 0.9, 0.8, 0.8, 0.9, 0.7, 0.1, 4.0,
        float("nan"), 1.0,
    )  # fmt: skip
    return replace(known, **changes)


def test_means_and_intervals_over_seeds():
    rows = [row(seed=i, mcc=m) for i, m in enumerate((0.9, 0.94, 0.92))] + [row("random", mcc=0.3, fvu=0.7)]
    found = estimate(rows, "topk", "mcc")
    # t of 97.5 % with two degrees of freedom, times the standard error
    assert found.value == pytest.approx(0.92)
    assert found.high - found.value == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-5)
    assert headline(rows) == "MCC/FVU on superposition: topk 0.920 ±0.050/0.100 ±0.000, random 0.300/0.700"
    (table,) = report_coders(rows, "").tables
    assert "absorbed" not in table.headings
    assert table.title == "superposition: 128 features in 64 dimensions, 128 latents, 3 seeds"


def test_no_figure_where_the_truth_does_not_match_itself(monkeypatch):
    right = bench.match_features

    def wrong(*args, **kwargs):
        found = right(*args, **kwargs)
        return replace(found, cosines=torch.zeros_like(found.cosines))

    monkeypatch.setattr(bench, "match_features", wrong)
    with pytest.raises(BenchError, match="planted hierarchy do not match themselves"):
        run_coders(PLAN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seeds=0), "at least 1"),
        (dict(n=1), "n at least 2"),
        (dict(learning_rate=0.0), "above 0"),
        (dict(architectures=("topk", "top-k")), "architectures are some of topk, batch-topk"),
        (dict(suites=()), "suites are some of superposition, hierarchy, correlated; got none"),
    ],
)
def test_plans_that_mean_nothing(changes, message):
    with pytest.raises(BenchError, match=message):
        replace(PLAN, **changes)


def test_the_quick_plan_is_a_part_of_the_whole():
    quick = CodersPlan.quick(7)
    assert quick.seed == 7
    assert set(quick.suites) < set(CodersPlan().suites)
    assert set(quick.architectures) < set(CodersPlan().architectures)
