"""Equal doses: those of ``find_strength``, for several at once."""

from __future__ import annotations

import pytest
import torch

from interp.steering.dose import find_strength
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.kl import measure_kl
from interp.steering.operations import ProjectOut, Rotate
from interp.steering.steering import Step, steer_with

DOSES = (0.5, 0.05, 1.5)


def test_each_strength_has_its_dose_as_find_strength_says(tiny, tiny_text, push):
    found = equal_strengths(tiny, push, DOSES, tiny_text, tolerance=0.005)
    kl = measure_kl(tiny, push, found.tolist(), tiny_text).mean
    assert kl.tolist() == pytest.approx(DOSES, rel=0.006)
    for dose, strength in zip(DOSES, found.tolist(), strict=True):
        alone = find_strength(tiny, push, dose, tiny_text, tolerance=0.005)
        assert strength == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("weight", [1.0, 0.25, 2.0])
def test_a_dose_beyond_the_end_of_an_operation_is_nan(tiny, tiny_text, push, weight):
    out = steer_with({"resid_post[0]": ProjectOut.span(push.direction())})
    out = out.weighted([weight])
    most = float(measure_kl(tiny, out, [1 / weight], tiny_text).mean)
    found = equal_strengths(tiny, out, (most / 2, 2 * most), tiny_text)
    assert 0 < float(found[0]) <= 1 / weight and bool(found[1].isnan())


def test_rotations_too(tiny, tiny_text, push):
    turn = steer_with({"resid_post[0]": Rotate(push.direction())})
    (strength,) = equal_strengths(tiny, turn, (0.2,), tiny_text).tolist()
    assert float(measure_kl(tiny, turn, [strength], tiny_text).mean) == pytest.approx(0.2, rel=0.021)


def test_steps_of_several_layers(tiny, tiny_text, push):
    site = push.steps[0].site
    both = push._with_steps([push.steps[0], Step(site.__class__("resid_post", 1), push.steps[0].operation)])
    found = equal_strengths(tiny, both, (0.1, 0.4), tiny_text)
    assert bool((found > 0).all())
    kl = measure_kl(tiny, both, found.tolist(), tiny_text).mean
    torch.testing.assert_close(kl, torch.tensor([0.1, 0.4], dtype=torch.float64), rtol=0.021, atol=0)
