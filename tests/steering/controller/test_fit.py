"""Training a controller: what each objective learns, and what is left when it is stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.controller import ControllerConfig, ControllerInterrupted, fit_controller
from interp.steering.controller import fit as module
from interp.steering.controller.fit import _behaviour_loss, sites_before, start_controller
from interp.steering.controller.losses import BehaviourLoss
from interp.steering.gated.behaviour import raise_words
from interp.steering.gated.scored import read_rows, score_gates
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step, steer_with
from interp.types import Site, parse_site

D = 36
BEHAVIOUR = raise_words(torch.arange(1, 20), name="log odds of low ids")
QUICK = ControllerConfig(n_steps=3, batch_size=6, hidden=4, seed=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return interp.load_model(make_hf_model("gpt2"))


def steering(*sites: str) -> Steering:
    draw = torch.Generator().manual_seed(0)
    listed = sites or ("resid_post[0]", "resid_post[1]")
    return Steering(tuple(Step(parse_site(site), Add(torch.randn(D, generator=draw))) for site in listed))


def prompts(first: int, n: int = 12) -> Tensor:
    tokens = torch.randint(3, 53, (n, 6), generator=torch.Generator().manual_seed(first))
    tokens[:, :3] = first
    return tokens


def fit(model: Model, config: ControllerConfig = QUICK, **options):
    given = dict(strength=1.0, n_tokens=3, behaviour=BEHAVIOUR, steering=steering()) | options
    return fit_controller(
        model,
        given.pop("steering"),
        given.pop("act", prompts(1)),
        given.pop("leave", prompts(2)),
        given.pop("behaviour"),
        config=config,
        **given,
    )


@pytest.mark.parametrize("objective", ["behaviour", "both", "labels"])
def test_each_objective_learns_which_prompts_are_which(model, objective):
    """Tokens tell the sides apart; the gate comes to as well, on prompts that it has not seen."""
    config = replace(QUICK, n_steps=60, batch_size=16, objective=objective, learning_rate=2e-2)
    found = fit(model, config, act=prompts(1, 24), leave=prompts(2, 24))
    seen = [score_gates(model, [found.controller], prompts(first, 40)[30:])[0] for first in (1, 2)]
    assert float(seen[0].min()) > float(seen[1].max())
    history = found.history
    assert history.objective == objective
    assert history.channels == ("add(resid_post[0])", "add(resid_post[1])")
    assert len(history.steps) == 60
    assert bool(history.effect.isnan().all()) == (objective == "labels")
    if objective == "labels":
        assert torch.equal(history.weights, torch.ones(60, 2))
        assert float(found.controller.W_out[1:].abs().max()) == 0
    else:
        assert float((history.weights[-1] - 1).abs().max()) > 1e-3
        torch.testing.assert_close(history.weights.mean(1), torch.ones(60))


def test_it_begins_half_open_with_equal_weights(model):
    """What the first step sees is predicted: factors of a half, so KL of half the strength."""
    found = fit(model, replace(QUICK, n_steps=1, batch_size=24, objective="behaviour"))
    history = found.history
    assert history.act_gate.tolist() == [0.5]
    assert history.weights.tolist() == [[1.0, 1.0]]
    again = fit(model, replace(QUICK, n_steps=1, batch_size=24, objective="behaviour"), strength=0.5)
    # at half the strength and a gate of a half it is a quarter
    assert float(again.history.act_kl) < 0.5 * float(history.act_kl)


def test_a_seed_makes_it_and_makes_it_again(model):
    first, again, other = (fit(model, replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    for name in ("W_in", "b_in", "W_out", "b_out"):
        assert torch.equal(getattr(first.controller, name), getattr(again.controller, name))
    assert torch.equal(first.history.loss, again.history.loss)
    assert not torch.equal(first.controller.W_in, other.controller.W_in)


def test_the_model_is_left_as_it_was(model):
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    fit(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_stopping_leaves_the_last_whole_step(model, monkeypatch):
    whole = fit(model, replace(QUICK, n_steps=5))
    right, seen = BehaviourLoss.__call__, []

    def stop(self, controller, act, leave):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        return right(self, controller, act, leave)

    monkeypatch.setattr(BehaviourLoss, "__call__", stop)
    with pytest.raises(ControllerInterrupted, match="after 2 steps of 5") as caught:
        fit(model, replace(QUICK, n_steps=5))
    left = caught.value.fit
    assert len(left.history.steps) == 2
    assert torch.equal(left.history.loss, whole.history.loss[:2])
    assert caught.value.steering is left.steering
    with torch.no_grad(), left.steering.apply(model, strength=1.0):
        model(prompts(1))
    seen[:] = [1, 1]
    # before the first step there is nothing to leave
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(model, QUICK)
    assert not isinstance(caught.value, ControllerInterrupted)


def test_the_budget_is_what_the_steering_costs_without_a_gate(model, monkeypatch):
    made = []
    right = module.BehaviourLoss
    monkeypatch.setattr(module, "BehaviourLoss", lambda *a: made.append(right(*a)) or made[-1])
    fit(model, replace(QUICK, n_steps=1))
    (loss,) = made
    with torch.no_grad(), loss.act.continuing(model):
        base = loss.act.logits(model).double()
        with steering().apply(model, strength=1.0):
            steered = loss.act.logits(model).double()
    p, q = base.softmax(-1), steered.softmax(-1)
    kl = loss.act.mean((p * (p / q).log()).sum(-1))
    assert loss.budget == pytest.approx(float(kl.mean()), rel=1e-4)


def test_the_loss_is_the_sum_that_it_says(model):
    config = replace(QUICK, leave_weight=3.0, budget_weight=2.0, label_weight=0.5)
    rows = [read_rows(model, prompts(first)) for first in (1, 2)]
    loss = _behaviour_loss(model, steering(), 1.0, BEHAVIOUR, rows, 3, config)
    gate = start_controller([Site("resid_post", 0)], torch.arange(9.0 * D).sin().reshape(9, D), 2, 4, 0)
    every = torch.arange(12)
    found = loss(gate, every, every).detached()
    tight = replace(loss, budget=0.0)(gate, every, every).detached()
    entropy = torch.tensor(0.5).log().neg() * 0.5
    assert float(tight.loss - found.loss) == pytest.approx(2.0 * float(found.act_kl), rel=1e-4)
    kl_root = (float(found.loss) + float(found.effect) - float(entropy)) / 3.0
    # by Jensen a mean of roots is at most the root of the mean
    assert 0 < kl_root <= float(found.leave_kl) ** 0.5 + 1e-3
    other = replace(loss, config=replace(config, objective="behaviour"))(gate, every, every).detached()
    assert float(found.loss - other.loss) == pytest.approx(float(entropy), rel=1e-4)


@pytest.mark.parametrize(
    ("sites", "wanted"),
    [
        (("resid_post[1]",), ["resid_post[0]", "resid_post[1]"]),
        (("resid_post[0]", "resid_post[1]"), ["resid_post[0]"]),
        (("mlp_out[1]",), ["resid_post[0]"]),
        (("mlp_out[0]",), ["resid_pre[0]"]),
        (("resid_post[1]", "attn_out[1]"), ["resid_post[0]"]),
    ],
)
def test_it_reads_what_comes_before(model, sites, wanted):
    assert list(map(str, sites_before(steering(*sites)))) == wanted
    found = fit(model, replace(QUICK, n_steps=1), steering=steering(*sites))
    assert list(map(str, found.controller.sites)) == wanted


def test_one_step_has_no_weights_to_learn(model):
    found = fit(model, steering=steering("resid_post[1]"))
    assert torch.equal(found.history.weights, torch.ones(3, 1))
    assert found.steering.steps[0].channel == 0


def test_labels_need_no_behaviour_and_no_run_of_the_model(model, monkeypatch):
    monkeypatch.setattr(module, "continue_prompts", lambda *_, **__: pytest.fail("text was sampled"))
    found = fit(model, replace(QUICK, objective="labels"), behaviour=None)
    # half open at first: the entropy of a coin
    assert float(found.history.loss[0]) == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(behaviour=None), "needs one, for example raise_words"),
        (dict(strength=None), "give dose=... or strength="),
        (dict(dose=0.3), "give dose=... or strength="),
        (dict(strength=None, dose=0.3), "has no dose"),
        (dict(sites="resid_post[1]"), "comes later in the forward"),
        (dict(sites="resid_post[0]@gen"), "generated tokens"),
        (dict(act=[]), "no prompts"),
        (dict(steering=steer_with({"embed": Add(torch.ones(D))})), "nothing to read"),
    ],
)
def test_what_cannot_be_fitted(model, changes, message):
    with pytest.raises(SteeringError, match=message):
        fit(model, **changes)


def test_a_gate_is_not_put_over_a_gate(model):
    gated = fit(model, replace(QUICK, n_steps=1)).steering
    with pytest.raises(SteeringError, match="has a gate already"):
        fit(model, steering=gated)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(objective="label"), "objective 'label'"),
        (dict(hidden=0), "at least 1"),
        (dict(batch_size=1), "a batch at least 2"),
        (dict(learning_rate=0.0), "learning rate is above 0"),
        (dict(leave_weight=-1.0), "at least 0"),
        (dict(leave_weight=float("nan")), "at least 0"),
        (dict(learning_rate=float("inf")), "learning rate is above 0"),
    ],
)
def test_configs_that_mean_nothing(changes, message):
    with pytest.raises(SteeringError, match=message):
        replace(QUICK, **changes)


@pytest.mark.parametrize("objective", ["both", "behaviour", "labels"])
def test_training_that_runs_away_is_refused(model, objective):
    with pytest.raises(SteeringError, match="take a smaller learning rate"):
        fit(model, replace(QUICK, objective=objective, n_steps=4, learning_rate=1e30))
