"""Records of evaluations: what they refuse, say, save and tabulate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fake_steering_evaluation import ANY_MODEL, fake_evaluation, fake_off_target

from interp.errors import RecordError
from interp.results import OffTarget, SteeringEvaluation


def test_it_comes_back_from_a_file(tmp_path):
    for record in (fake_evaluation(unreached=True), fake_off_target(hole=True)):
        path = record.save(tmp_path / "record.safetensors")
        back = type(record).load(path)
        assert repr(back) == repr(record)
        for name in record.AXES:
            torch.testing.assert_close(getattr(back, name), getattr(record, name), equal_nan=True)


def test_one_figure_and_what_is_not_there():
    found = fake_evaluation()
    one = found.at("mean-difference", 0.3, "legal")
    row = found.values[0, 1, found.measures.index("legal")]
    assert (one.value, one.low, one.high) == tuple(row.tolist())
    assert found.gain_per_nat("mean-difference", 0.3) == pytest.approx(float(found.shifts[0, 1, 0, 0]) / 0.3)
    for arguments, message in (
        (("mean-diff", 0.3, "legal"), "did you mean 'mean-difference'"),
        (("mean-difference", 0.2, "legal"), "doses are 0.1, 0.3, 1; got 0.2"),
        (("mean-difference", 0.3, "legality"), "did you mean 'legal'"),
        (("mean-difference", 0.3, "legal", "unsteered"), "array"),
    ):
        with pytest.raises(RecordError, match=message):
            found.at(*arguments)


def test_the_summary_says_the_largest_dose_that_all_reach_and_what_was_not():
    found = fake_evaluation(unreached=True)
    lines = found.summary().splitlines()
    assert lines[0].startswith("sentiment=<positive> & co at 0.3 nats: concept, unsteered 0.10")
    assert lines[1].startswith("mean-difference: ") and "over controls" in lines[1] and "loss +" in lines[1]
    assert "over controls" not in lines[4]
    assert lines[-1] == "not reached: mean-difference at 1 nats"
    assert found.unreached == ("mean-difference at 1 nats",)
    assert fake_evaluation(measures=ANY_MODEL, controls=()).effect == "log odds"


def test_a_row_a_condition_dose_and_measure():
    found = fake_evaluation(measures=ANY_MODEL)
    frame = found.to_frame()
    assert len(frame) == 5 * 3 * 4
    row = frame[(frame.condition == "shuffled labels") & (frame.dose == 1.0) & (frame.measure == "kl")].iloc[
        0
    ]
    at = found.values[4, 2, 2]
    assert (row["value"], row.low, row.high) == tuple(at.tolist())
    assert row["kind"] == "random" and row.draws == 4 and math.isnan(row.over_controls)
    assert row.shift_per_nat == pytest.approx(row["shift"] / 1.0) and row.unsteered == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kinds=("method",)), "one for each condition"),
        (dict(kinds=("random",) * 5), "needs a method"),
        (dict(measures=("loss", *ANY_MODEL[2:], "lossy")), "SteeringEvaluation.unsteered must be"),
        (dict(conditions=("a", "a", "b", "c", "d")), "names of their own"),
        (dict(strengths=torch.zeros(5, 2)), "strengths must be"),
    ],
)
def test_fields_that_do_not_agree(changes, message):
    with pytest.raises(RecordError, match=message):
        replace(fake_evaluation(), **changes)


def test_unknown_measures():
    with pytest.raises(RecordError, match="did you mean 'loss'"):
        replace(fake_evaluation(measures=ANY_MODEL), measures=("log odds", "los", "kl", "entropy"))


def test_on_and_off_target():
    found = fake_off_target()
    assert found.on_target[:3].tolist() == pytest.approx([float(found.shifts[i, i, 0]) for i in range(3)])
    assert math.isnan(float(found.on_target[3]))
    # of another attribute: columns 0 and 1 are of the first
    assert float(found.off_target[0]) == pytest.approx(float(found.shifts[0, 2:, 0].abs().max()))
    assert found.at(found.steerings[0], found.values[0]).value == pytest.approx(float(found.shifts[0, 0, 0]))
    assert len(found.to_frame()) == 4 * 11
    assert "on target +0" in found.summary()
    for arguments in (("nobody", found.values[0]), (found.steerings[0], "nothing")):
        with pytest.raises(RecordError, match="unknown"):
            found.at(*arguments)
    with pytest.raises(RecordError, match="are none of the steerings"):
        replace(found, controls=("another",))
    assert isinstance(found, OffTarget) and isinstance(fake_evaluation(), SteeringEvaluation)
