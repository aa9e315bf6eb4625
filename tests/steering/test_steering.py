"""The steering itself: what its methods change, what they keep, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mean_gate import MeanGate
from tiny_models import make_hf_model

import interp
from interp.errors import SteeringError
from interp.steering.operations import Add, AffineMap, Clamp, ProjectOut, Rotate
from interp.steering.places import TextPattern
from interp.steering.steering import Step, steer_with
from interp.types import Site, Span

D = 36
ONE, TWO = (torch.randn(D, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))


@pytest.fixture(scope="module")
def model():
    return interp.load_model(make_hf_model("llama", d_model=D))


@pytest.fixture
def pair():
    return steer_with({"resid_post[0]": Add(ONE), "resid_mid[1]": Add(TWO)}, method="pair")


def run(model, steering, strength=1.0):
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad(), steering.apply(model, strength=strength):
        return model(tokens)


def test_weights_multiply_the_strength_of_their_steps(model, pair):
    found = run(model, pair.weighted([0.5, -2.0]), 0.3)
    by_hand = steer_with({"resid_post[0]": Add(0.5 * ONE), "resid_mid[1]": Add(-2.0 * TWO)})
    assert torch.allclose(found, run(model, by_hand, 0.3), atol=1e-4)
    by_layer = pair.weighted({1: -2.0})
    assert [step.weight for step in by_layer.steps] == [1.0, -2.0]
    for weights, message in (([1.0], "1 weights for 2 steps"), ({3: 1.0}, "layers \\[3\\]")):
        with pytest.raises(SteeringError, match=message):
            pair.weighted(weights)


def test_a_sum_acts_as_one_after_the_other_in_that_order(model):
    turn = steer_with({"resid_post[0]": Rotate(TWO)}, method="turn")
    add = steer_with({"resid_post[0]": Add(ONE)}, method="add")
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad(), add.apply(model, strength=0.7), turn.apply(model, strength=0.7):
        nested = model(tokens)
    assert torch.equal(run(model, add + turn, 0.7), nested)
    assert not torch.allclose(run(model, turn + add, 0.7), nested, atol=1e-2)
    assert (add + turn).method == "add + turn" and (add + turn).calibration is None
    strangers = replace(add, model_digest="a"), replace(turn, model_digest="b")
    with pytest.raises(SteeringError, match="different models"):
        strangers[0] + strangers[1]
    with pytest.raises(TypeError):
        add + 1


def test_one_direction_is_used_in_four_ways(pair):
    kinds = {"add": Add, "project-out": ProjectOut, "rotate": Rotate, "clamp": Clamp}
    for name, kind in kinds.items():
        used = pair.using(name, 1.5)
        assert all(isinstance(step.operation, kind) for step in used.steps)
        cosine = torch.cosine_similarity(used.direction("resid_post[0]"), ONE, dim=0)
        assert float(cosine.abs()) == pytest.approx(1, abs=1e-5)
    assert pair.using("clamp", 1.5).steps[0].operation.value == 1.5
    with pytest.raises(SteeringError, match="got 'scale'"):
        pair.using("scale")
    with pytest.raises(SteeringError, match="affine has no one direction"):
        steer_with({"resid_post[0]": AffineMap(ONE, TWO)}).using("add")


def test_changes_of_what_acts_forget_the_dose_and_a_gate_does_not(model, pair):
    dosed = pair.calibrate(model, [torch.arange(1, 12)] * 2, n_strengths=2, max_dose=0.1)
    assert dosed.calibration is not None
    changed = (
        dosed.at("gen"),
        dosed.weighted([1.0, 1.0]),
        dosed.using("rotate"),
        dosed.narrowed(TextPattern("a")),
        dosed + pair,
    )
    for one in changed:
        with pytest.raises(SteeringError, match="has no dose"):
            one.strength_for(0.05)
    gated = dosed.gated(MeanGate("resid_pre[0]"))
    assert gated.strength_for(0.05) == dosed.strength_for(0.05)
    assert all(step.gate is gated.steps[0].gate for step in gated.steps)
    assert all(step.gate is None for step in gated.gated(None).steps)
    for channels in (3, 4):
        with pytest.raises(SteeringError, match=f"{channels} channels .* 2 steps"):
            dosed.gated(MeanGate("resid_pre[0]", channels=channels))


def test_places_are_named(pair):
    assert [str(s.site) for s in pair.at(Span(2, 5), "gen").steps] == [
        "resid_post[0]@2:5,gen",
        "resid_mid[1]@2:5,gen",
    ]
    assert pair.at("gen").at().steps[0].site.positions is None
    assert torch.equal(pair.direction("resid_mid[1]"), TWO)
    for site, message in ((None, "2 steps at any site"), ("resid_post[1]", "0 steps at resid_post")):
        with pytest.raises(SteeringError, match=message):
            pair.direction(site)
    assert len(steer_with({"resid_post[0-2]": Add(ONE)}).steps) == 3


def test_sites_that_are_no_vector_of_one_layer_are_refused():
    for site, message in (
        (Site("pattern", 0), "acts on vectors"),
        (Site("mlp_out", 0, latents=(1,)), "acts on vectors"),
        (Site("resid_post"), "acts in one layer"),
        (Site("resid_post", 0).within(ONE), "also has a subspace"),
    ):
        with pytest.raises(SteeringError, match=message):
            Step(site, Add(ONE))
    with pytest.raises(SteeringError, match="at least one step"):
        interp.Steering(())


def test_weights_of_layers_leave_the_embedding_alone():
    both = steer_with({"embed": Add(ONE), "resid_post[0]": Add(TWO)})
    assert [step.weight for step in both.weighted({0: 0.5}).steps] == [1.0, 0.5]
    with pytest.raises(SteeringError, match=r"layers \[None\]"):
        both.weighted({None: 0.5})


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(pair, weight):
    with pytest.raises(SteeringError, match="weight is a finite number"):
        pair.weighted([1.0, weight])
