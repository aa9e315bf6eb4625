"""The gated steering benchmark: its prompts, its gate, its rows and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from interp.bench import steering_gates as bench
from interp.bench.steering_gates import SteeringGatesPlan, run_steering_gates
from interp.bench.steering_gates_report import (
    SteeringGateRow,
    estimate,
    headline,
    report_steering_gates,
    select,
)
from interp.bench.steering_gates_tasks import draw_prompts
from interp.errors import BenchError
from interp.tasks.attributes import measure_attribute

PLAN = SteeringGatesPlan(
    ("music and past",), 1, (0.1,), n_fit=33, n_calibrate=22, n_test=11, n_steps=2, n_tokens=3, seed=3
)
GATES = ["two conditions", "condition", "controller", "controller, behaviour", "controller, labels"]
GATES += ["controller, labels, last token", "random direction", "shuffled labels"]


def test_prompts_to_act_on_have_both_attributes_and_the_others_one_or_none():
    found = draw_prompts("music and past", 20, 22, 11, seed=1)
    assert [len(part) for part in (found.fit_act, found.fit_leave, found.calibrate)] == [20, 40, 22]
    assert [len(part) for part in (found.test_act, found.test_leave)] == [11, 22]

    def expressed(text, attribute):
        counts = measure_attribute(text.split(), attribute)
        return max(counts, key=lambda value: counts[value])

    for text in found.fit_act + found.test_act:
        assert expressed(text, "topic") == "music"
    cells = {tuple(found.fit_attributes[text].values()) for text in found.fit_leave}
    assert len(cells) == 11
    assert ("music", "past") not in cells
    used = [found.fit_act, found.fit_leave, found.calibrate, found.test_act, found.test_leave]
    assert len({text for part in used for text in part}) == sum(map(len, used))
    yes, no = found.split_fit("tense", "past")
    assert set(found.fit_act) < set(yes)
    assert {found.fit_attributes[text]["tense"] for text in no} == {"present", "future"}
    assert draw_prompts("music and past", 20, 22, 11, seed=1) == found
    assert draw_prompts("music and past", 20, 22, 11, seed=2).fit_act != found.fit_act


def test_every_gate_beside_steering_that_is_always_on():
    kept = []
    report = run_steering_gates(PLAN, keep=kept.extend)
    assert kept == list(report.rows)
    rows = {(row.gate, row.wanted_fpr == 0.1): row for row in report.rows}
    assert len(rows) == len(report.rows)
    assert {gate for gate, with_rate in rows if with_rate} == set(GATES)
    assert {gate for gate, with_rate in rows if not with_rate} == {"always on", *GATES[2:6]}
    always = rows["always on", False]
    assert (always.tpr, always.fpr, always.act_gate, always.n_act, always.n_leave) == (1, 1, 1, 11, 22)
    assert always.act_effect > 1 and always.leave_effect > 1 and always.act_kl > 0.05
    assert math.isnan(always.auc)
    for row in report.rows:
        if row.gate in ("two conditions", "condition", "random direction", "shuffled labels"):
            # open or closed, so that the gate's mean is its rate
            assert row.act_gate == pytest.approx(row.tpr)
            assert row.leave_gate == pytest.approx(row.fpr)
    assert len(report.tables) == 2
    assert report.tables[0].headings == ("gate", "rate", "AUC", "TPR", "FPR")
    assert report.last_line.startswith("effect act/leave on music and past at FPR 0.1: always on ")


def test_one_number_moves_both_thresholds():
    """The combined gate is open exactly where the smaller score is above the threshold."""
    model = bench.load_model("mix-4l")
    prompts = draw_prompts("music and past", 33, 22, 11, seed=3)
    steering, behaviour = bench._extract(model, 3)
    setting = bench._Setting(model, PLAN, "music and past", 3, steering, 1.0, behaviour, prompts)
    arm = bench._combined(setting)
    tokens, mask = model.to_padded_tokens(list(prompts.test_act))
    ranked = arm.act.sort().values
    for threshold in ((ranked[1:] + ranked[:-1]) / 2).tolist():
        gate = arm.at(threshold)
        with torch.no_grad(), steering.gated(gate).apply(model, strength=1.0) as applied:
            model(tokens, mask)
        assert torch.equal(applied.gate_of(gate)[:, 0] > 0, arm.act > threshold), threshold


def test_no_figure_where_a_gate_does_not_do_as_it_should(monkeypatch):
    right = bench.Condition.decide
    monkeypatch.setattr(bench.Condition, "decide", lambda self, readings: 0.9 * right(self, readings))
    with pytest.raises(BenchError, match="a gate that is open is off by"):
        run_steering_gates(PLAN)


def row(gate="condition", fpr=0.05, **changes):
    known = SteeringGateRow(
        "music", gate, fpr, 0, 0.3, 1.5, 0.99, 0.9, 0.05, 4.5, 0.3, 0.27, 0.015, 0.9, 0.05, 100, 200, 1.0
    )
    return replace(known, **changes)


def test_means_and_intervals_over_seeds():
    rows = [row(seed=i, act_effect=e) for i, e in enumerate((4.0, 5.0, 4.5))]
    rows += [row(fpr=0.01, act_effect=1.0), row("always on", math.nan, auc=math.nan, tpr=1.0, act_effect=5.0)]
    found = estimate(select(rows, "condition", 0.05), "act_effect")
    assert found.value == pytest.approx(4.5)
    assert found.high - found.value == pytest.approx(4.302653 * 0.5 / 3**0.5, rel=1e-5)
    assert [r.act_effect for r in select(rows, "condition", 0.01)] == [1.0]
    assert [r.gate for r in select(rows, "always on", math.nan)] == ["always on"]
    assert headline(rows) == (
        "effect act/leave on music at FPR 0.05: condition 4.50 ±1.24/0.30 ±0.00, always on 5.00/0.30"
    )
    rates, effects = report_steering_gates(rows, "").tables
    assert rates.cells[-1] == ["always on", "-", "-", "1.000", "0.050"]
    assert effects.title == "music: formal at 0.3 nats, 100 prompts to act on and 200 to leave alone, 3 seeds"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(seeds=0), "at least 1"),
        (dict(n_fit=15), "at least 16"),
        (dict(fprs=(0.01,)), r"22 prompts cannot tell false-positive rates \[0.01\]"),
        (dict(fprs=()), "cannot tell"),
        (dict(tasks=("music", "musik")), "tasks are some of music, music and past"),
        (dict(dose=0.0), "dose is above 0"),
    ],
)
def test_plans_that_mean_nothing(changes, message):
    with pytest.raises(BenchError, match=message):
        replace(PLAN, **changes)


def test_the_quick_plan_is_a_part_of_the_whole():
    quick, whole = SteeringGatesPlan.quick(7), SteeringGatesPlan()
    assert quick.seed == 7
    assert set(quick.tasks) < set(whole.tasks)
    assert set(quick.fprs) < set(whole.fprs)
