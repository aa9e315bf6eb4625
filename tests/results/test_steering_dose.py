"""Calibrations of doses: looking up both ways, limits, files, and what is refused."""

from __future__ import annotations

import pytest
import torch
from fake_steering_dose import fake_calibration

from interp.errors import RecordError
from interp.results import DoseCalibration


def test_doses_and_strengths_are_each_other_s_inverse():
    found = fake_calibration()
    for dose in (0.0, 0.03, 0.7, 1.9, -0.4, -2.0):
        strength = found.strength_for(dose)
        assert found.dose_at(strength) == pytest.approx(abs(dose), abs=1e-12)
        assert strength * dose >= 0
    for strength, kl in zip(found.strengths.tolist(), found.kl.tolist(), strict=True):
        assert found.strength_for(kl if strength >= 0 else -kl) == pytest.approx(strength)


def test_between_strengths_the_root_is_straight():
    found = fake_calibration((0.0, 2.0), (0.0, 4.0))
    assert [found.strength_for(dose) for dose in (1.0, 0.25, 4.0)] == [1.0, 0.5, 2.0]
    assert found.dose_at(0.5) == 0.25


def test_doses_end_at_the_first_fall():
    found = fake_calibration((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 0.5, 4.0))
    assert found.doses == (0.0, 1.0)
    assert found.strength_range == (0.0, 1.0)
    with pytest.raises(RecordError, match=r"a dose of 2 nats lies outside .* at strength 1 the KL is 1 nats"):
        found.strength_for(2.0)
    with pytest.raises(RecordError, match="not measured in that direction"):
        found.strength_for(-0.1)
    with pytest.raises(RecordError, match="lies outside"):
        found.strength_for(float("nan"))
    with pytest.raises(RecordError, match="strength 5 lies outside"):
        found.dose_at(5.0)


@pytest.mark.parametrize("strengths", [(1.0, 2.0), (0.0, 1.0, 1.0), (1.0, 0.0), (0.0,)])
def test_strengths_that_cannot_be(strengths):
    with pytest.raises(RecordError, match=r"rise and hold 0|besides 0"):
        fake_calibration(strengths, [0.0] * len(strengths))


def test_file_and_frame(tmp_path):
    found = fake_calibration()
    again = DoseCalibration.load(found.save(tmp_path / "c"))
    assert again.to_frame().equals(found.to_frame())
    assert list(found.to_frame()) == ["strength", "kl", "low", "high"]
    assert (again.text, again.n_tokens, again.provenance) == (found.text, found.n_tokens, found.provenance)
    assert "doses -2.08 to 2.25 nats" in repr(found)
    assert torch.equal(again.strengths, found.strengths)
