"""Records of gated steering: figures of them, and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_steering_gate import fake_condition, fake_controller, fake_effects

from interp.errors import RecordError
from interp.results import ConditionReport, ControllerHistory, Estimate, GatedEffects
from interp.steering.gated.rates import area

NO_PROMPT = {f"act_{figure}": torch.zeros(4, 0) for figure in ("effect", "kl", "gate")}


def test_the_roc_curve_is_that_of_every_threshold():
    found = fake_condition(n=13)
    x, y = found.roc
    for fpr, tpr, cut in zip(
        x[1:], y[1:], sorted([*found.yes.tolist(), *found.no.tolist()])[::-1], strict=True
    ):
        assert tpr == float((found.yes >= cut).double().mean())
        assert fpr == float((found.no >= cut).double().mean())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(area(found.yes, found.no))


def test_equal_scores_are_one_step():
    found = replace(fake_condition(), yes=torch.tensor([1.0, 1.0]), no=torch.tensor([1.0, 0.0]))
    assert [side.tolist() for side in found.roc] == [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]


def test_means_of_effects_and_their_intervals():
    found = replace(fake_effects(("a", "b"), n=4), act_effect=torch.tensor([[1.0, 2.0, 3.0, 6.0]] * 2))
    mean = found.mean("a", "effect", "act")
    assert mean.value == 3.0
    assert 1.0 <= mean.low < 3.0 < mean.high <= 6.0
    assert replace(found, act_effect=torch.ones(2, 4)).mean("b", "effect", "act") == Estimate(1.0, 1.0, 1.0)
    frame = found.to_frame()
    assert len(frame) == 2 * 2 * 3
    row = frame[(frame.arm == "a") & (frame.side == "act") & (frame.figure == "effect")].iloc[0]
    assert (row["mean"], row.low, row.high) == (mean.value, mean.low, mean.high)
    gates = replace(found, leave_gate=torch.tensor([[0.2, 0.51, 1.0, 0.5] * 2] * 2))
    assert gates.opened("a", "leave") == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (("c", "kl", "act"), "arm 'c'"),
        (("a", "klm", "act"), "figure 'klm'"),
        (("a", "kl", "acts"), "side 'acts'"),
    ],
)
def test_names_that_are_not_there(name, message):
    with pytest.raises(RecordError, match=message):
        fake_effects(("a",)).values(*name)


@pytest.mark.parametrize("record", [fake_condition(), fake_effects(), fake_controller(objective="labels")])
def test_files_keep_everything(record, tmp_path):
    again = type(record).load(record.save(tmp_path / "record.safetensors"))
    assert repr(again) == repr(record)
    for name in record.AXES:
        assert torch.equal(getattr(again, name).nan_to_num(-1), getattr(record, name).nan_to_num(-1)), name
    assert again.to_frame().equals(record.to_frame())


def test_summaries_say_what_matters():
    assert "AUC 0.92 [0.88, 0.96]" in repr(fake_condition())
    assert "at resid_post[3] for false-positive rate 0.05" in fake_condition().summary()
    assert (
        fake_effects().summary().startswith("effect where it should act / KL where it should not: always on ")
    )
    assert "100 steps on both: gate 0.9" in fake_controller().summary()
    assert list(fake_condition().to_frame().chosen) == [False, False, False, True]
    frame = fake_controller(n=3, channels=2).to_frame()
    assert list(frame.columns)[:2] == ["step", "loss"]
    assert list(frame.columns)[-1] == "weight of add(resid_post[1])"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(fake_condition(), yes=torch.zeros(0)), "prompts of both kinds"),
        (lambda: replace(fake_condition(), chosen=4), "number 4 as the chosen one"),
        (lambda: replace(fake_condition(), site_auc=torch.zeros(3, 3)), "site_auc must be"),
        (lambda: replace(fake_effects(), act_kl=torch.zeros(2, 40)), "act_kl must be"),
        (lambda: replace(fake_effects(), **NO_PROMPT), "need a steering, and prompts of both kinds"),
        (lambda: replace(fake_controller(), steps=torch.zeros(100).long()), "rising steps"),
        (lambda: replace(fake_controller(), loss=torch.zeros(3)), "loss must be"),
    ],
)
def test_records_that_do_not_agree(make, message):
    with pytest.raises(RecordError, match=message):
        make()


def test_kinds():
    assert {ConditionReport, GatedEffects, ControllerHistory} == {
        type(record) for record in (fake_condition(), fake_effects(), fake_controller())
    }
