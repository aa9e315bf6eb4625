"""Loss, KL and entropy on neutral text, against a loop, on every family."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.steering.evaluate.side_effects import NeutralSideEffects
from interp.steering.kl import measure_kl
from interp.steering.operations import Add
from interp.steering.steering import steer_with


def test_sums_are_those_of_a_loop(make_hf_model, family, tiny_text):
    model = interp.load_model(make_hf_model(family))
    steering = steer_with({"resid_post[0]": Add(torch.randn(36, generator=torch.Generator().manual_seed(1)))})
    found = NeutralSideEffects(tiny_text, batch_size=2).read(model, steering, 1.5)
    for number, row in enumerate(tiny_text.rows):
        with torch.no_grad():
            base = model(row[None])[0, :-1].double().log_softmax(-1)
            with steering.apply(model, strength=1.5):
                log = model(row[None])[0, :-1].double().log_softmax(-1)
        loss = -sum(float(log[pos, int(row[pos + 1])]) for pos in range(len(row) - 1))
        kl = float((base.exp() * (base - log)).sum())
        entropy = -float((log.exp() * log).sum())
        for name, wanted in (("loss", loss), ("kl", kl), ("entropy", entropy)):
            assert float(found[name].part[0, number]) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
            assert float(found[name].whole[0, number]) == len(row) - 1


def test_nothing_costs_nothing(tiny, tiny_text, push):
    effects = NeutralSideEffects(tiny_text)
    base, still = effects.read(tiny, None, 0.0), effects.read(tiny, push, 0.0)
    assert still["kl"].value == 0 and base["kl"].value == 0
    assert still["loss"].value == pytest.approx(base["loss"].value, abs=1e-9)
    # a KL is what the model's own text loses; neutral text is another's
    pushed = effects.read(tiny, push, 1.0)
    assert pushed["kl"].value > 0 and pushed["loss"].value != base["loss"].value


def test_generated_tokens_only_are_measured_as_their_dose_is(tiny, tiny_text, push):
    late = push.at("gen")
    found = NeutralSideEffects(tiny_text).read(tiny, late, 1.0)
    wanted = measure_kl(tiny, late, [1.0], tiny_text)
    # a dose also counts the last token of a row, and only tokens from the first steered one on
    assert 0 < float(found["kl"].part.sum()) <= float(wanted.total.sum()) + 1e-9
