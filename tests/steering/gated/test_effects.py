"""What gated steerings do: against both runs written out, and calibrated gates."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen
from naive_gates import random_condition, random_controller
from naive_interventions import random_prompts

from interp.errors import SteeringError
from interp.steering.gated.behaviour import raise_words
from interp.steering.gated.effects import measure_gated
from interp.steering.gated.rollouts import continue_prompts
from interp.steering.gated.scored import calibrate_gate, score_gates
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import Site

D = 36
BEHAVIOUR = raise_words(torch.arange(1, 20), name="log odds of low ids")


def steering() -> Steering:
    draw = torch.Generator().manual_seed(0)
    return Steering(tuple(Step(Site("resid_post", i), Add(torch.randn(D, generator=draw))) for i in range(2)))


def prompts(seed: int, n: int = 6) -> list[torch.Tensor]:
    found = random_prompts(seed, n, 6, "left")
    return [row[real] for row, real in zip(found.tokens, found.real, strict=True)]


def test_effect_and_kl_are_those_of_two_runs():
    on = specimen("llama")
    act, leave = (continue_prompts(on.model, prompts(seed), n_tokens=3, end=5) for seed in (1, 2))
    gates = {"always on": None, "condition": random_condition("resid_post[0]", D, 1)}
    gates["controller"] = random_controller(("resid_pre[0]",), D)
    arms = {name: steering().gated(gate) for name, gate in gates.items()}
    found = measure_gated(on.model, arms, act, leave, BEHAVIOUR, strength=1.5, batch_size=4)
    assert found.arms == tuple(gates)
    assert found.act_effect.shape == (3, 6)
    for arm, (name, gate) in enumerate(gates.items()):
        for side, rollouts in (("act", act), ("leave", leave)):
            with torch.no_grad(), rollouts.continuing(on.model):
                base = rollouts.logits(on.model).double()
                with arms[name].apply(on.model, strength=1.5) as applied:
                    steered = rollouts.logits(on.model).double()
            p, q = base.softmax(-1), steered.softmax(-1)
            kl = (p * (p / q).log()).sum(-1)
            odds = [x[..., 1:20].sum(-1) / (1 - x[..., 1:20].sum(-1)) for x in (p, q)]
            effect = (odds[1] / odds[0]).log()
            for figure, values in (("kl", kl), ("effect", effect)):
                wanted = [float(row[s].mean()) for row, s in zip(values, rollouts.scored, strict=True)]
                mine = getattr(found, f"{side}_{figure}")[arm]
                torch.testing.assert_close(mine, torch.tensor(wanted), atol=1e-4, rtol=1e-3)
            factors = torch.ones(6) if gate is None else applied.gate_of(gate).mean(1)
            torch.testing.assert_close(getattr(found, f"{side}_gate")[arm], factors, atol=1e-5, rtol=1e-4)
    # a closed gate leaves a prompt alone
    closed = found.act_gate[1] == 0
    assert 0 < int(closed.sum()) < 6
    assert float(found.act_kl[1][closed].abs().max()) == 0
    assert torch.equal(found.act_kl[1][~closed], found.act_kl[0][~closed])


def test_a_strength_for_each_steering():
    on = specimen("gpt2")
    rollouts = continue_prompts(on.model, prompts(1), n_tokens=2)
    arms = {"a": steering(), "b": steering()}
    found = measure_gated(on.model, arms, rollouts, rollouts, BEHAVIOUR, strength=[0.0, 1.0])
    assert float(found.act_kl[0].abs().max()) == 0
    assert float(found.act_kl[1].min()) > 0
    # no one strength is that of all
    assert found.strength != found.strength
    assert "strength" not in str(found.plot().to_dict())
    with pytest.raises(SteeringError, match="confidence lies between"):
        measure_gated(on.model, arms, rollouts, rollouts, BEHAVIOUR, strength=1.0, confidence=95)
    for given in ([1.0], []):
        with pytest.raises(SteeringError, match="one strength or one for each"):
            measure_gated(on.model, arms, rollouts, rollouts, BEHAVIOUR, strength=given)
    with pytest.raises(SteeringError, match="at least one steering"):
        measure_gated(on.model, {}, rollouts, rollouts, BEHAVIOUR, strength=1.0)


@pytest.mark.parametrize("kind", ["condition", "inverted", "controller"])
def test_a_calibrated_gate_stays_closed_on_all_but_its_share(kind):
    on = specimen("gpt_neox")
    condition = random_condition("resid_post[0]", D, 1)
    gate = {
        "condition": condition,
        "inverted": ~condition,
        "controller": random_controller(("resid_pre[0]",), D),
    }[kind]
    leave = prompts(3, 39)
    found = calibrate_gate(on.model, steering().gated(gate), leave, 0.1, batch_size=10)
    closed = found.steps[0].gate
    assert closed is found.steps[1].gate
    (scores,) = score_gates(on.model, [gate], leave)
    with torch.no_grad(), found.apply(on.model, strength=1.0) as applied:
        open_ = []
        for row in leave:
            on.model(row[None])
            open_.append(float(applied.gate_of(closed)[0].sum()) > 0)
    # the fourth largest of 39, for a tenth of 40: three lie above it
    assert sum(open_) == 3
    assert {i for i, it_is in enumerate(open_) if it_is} == set(scores.argsort(descending=True)[:3].tolist())


def test_what_cannot_be_calibrated():
    on = specimen("gpt2")
    with pytest.raises(SteeringError, match="one gate with a score"):
        calibrate_gate(on.model, steering(), prompts(1, 30), 0.1)
    both = random_condition("embed", D, 1) & random_condition("embed", D, 2)
    with pytest.raises(SteeringError, match="one gate with a score"):
        calibrate_gate(on.model, steering().gated(both), prompts(1, 30), 0.1)
    with pytest.raises(SteeringError, match="needs at least 99"):
        calibrate_gate(on.model, steering().gated(random_condition("embed", D, 1)), prompts(1, 30), 0.01)
