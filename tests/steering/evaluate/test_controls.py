"""Controls: the same kind at the same place, with nothing of the concept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows
from interp.steering.evaluate.controls import (
    has_directions,
    orthogonal_controls,
    random_controls,
    shuffled_controls,
)
from interp.steering.evaluate.places import check_controls, describe_place, list_conditions
from interp.steering.operations import Add, AffineMap, Clamp, ProjectOut, Rotate, SetNeurons
from interp.steering.steering import steer_with
from interp.types import parse_site

D = 24


def vector(seed, d=D):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "operation",
    [Add(vector(0)), Clamp(vector(0), 0.7), Rotate(vector(0)), ProjectOut.span(vector(0))],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("kind", ["random", "orthogonal", "shuffled"])
def test_kind_place_weight_and_length_stay(operation, kind):
    steering = steer_with({"resid_post[1]": operation}).weighted([0.5]).at("gen")
    rows = ContrastRows(torch.randn(20, D) + 1, torch.randn(20, D), paired=False)
    made = {
        "random": lambda: random_controls(steering, 3, 1),
        "orthogonal": lambda: orthogonal_controls([steering], 3, 1),
        "shuffled": lambda: shuffled_controls(steering, {parse_site("resid_post[1]"): rows}, 3, 1),
    }[kind]()
    assert len(made) == 3
    for one in made:
        (step,), (own,) = one.steps, steering.steps
        assert (step.site, step.weight, step.operation.kind) == (own.site, 0.5, operation.kind)
        assert float(one.direction().norm()) == pytest.approx(float(steering.direction().norm()), rel=1e-5)
        assert getattr(step.operation, "value", None) == getattr(operation, "value", None)
        assert abs(float(torch.cosine_similarity(one.direction(), steering.direction(), dim=0))) < 0.9
        assert one.calibration is None
    assert not torch.equal(made[0].direction(), made[1].direction())


def test_the_same_seed_draws_the_same():
    steering = steer_with({"resid_post[1]": Add(vector(0))})
    first, again, other = (random_controls(steering, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(first[1].direction(), again[1].direction())
    assert not torch.equal(first[0].direction(), other[0].direction())


def test_orthogonal_to_every_method_at_the_place():
    steerings = [steer_with({"resid_post[1]": Add(vector(seed))}) for seed in (0, 1, 2)]
    # one twice, and one elsewhere, do no harm
    steerings += [steerings[0], steer_with({"resid_post[0]": Add(vector(9))})]
    for one in orthogonal_controls(steerings, 4, 0):
        for other in steerings[:3]:
            cosine = torch.cosine_similarity(one.direction(), other.direction(), dim=0)
            assert abs(float(cosine)) < 1e-5
    full = [steer_with({"resid_post[1]": Add(row)}) for row in torch.eye(3)]
    with pytest.raises(SteeringError, match="span everything"):
        orthogonal_controls(full, 1)


def test_shuffled_labels_give_the_mean_difference_of_shuffled_rows():
    rows = ContrastRows(torch.randn(9, D), torch.randn(7, D), paired=False)
    steering = steer_with({"resid_post[1]": Add(vector(0))})
    (found,) = shuffled_controls(steering, {parse_site("resid_post[1]"): rows}, 1, 4)
    wanted = rows.shuffled(torch.Generator().manual_seed(6 * 1000)).mean_difference
    assert float(torch.cosine_similarity(found.direction(), wanted, dim=0)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(SteeringError, match="was not read"):
        shuffled_controls(steering, {}, 1)


def test_neurons_become_other_neurons_and_maps_become_directions():
    neurons = SetNeurons(torch.tensor([1, 5, 7]), torch.tensor([0.1, 0.2, 0.3]), 400)
    steering = steer_with({"mlp_post[1]": neurons, "resid_post[1]": AffineMap(torch.ones(D), vector(3))})
    assert not has_directions(steering)
    (one,) = random_controls(steering, 1)
    first, second = (step.operation for step in one.steps)
    assert isinstance(first, SetNeurons) and torch.equal(first.values, neurons.values) and first.width == 400
    assert set(first.neurons.tolist()) != {1, 5, 7} and len(first.neurons.unique()) == 3
    assert isinstance(second, Add) and len(second.vector) == D


def test_conditions_share_controls_by_place_and_say_what_is_missing():
    here = [steer_with({"resid_post[1]": Add(vector(seed))}) for seed in (0, 1)]
    there = steer_with({"mlp_post[0]": SetNeurons(torch.tensor([0]), torch.tensor([1.0]), 52)})
    conditions, missing = list_conditions(
        {"a": here[0], "b": here[1], "experts": there}, ("random", "orthogonal", "shuffled"), None, 2, 0
    )
    assert [one.name for one in conditions] == [
        "a",
        "b",
        "experts",
        "random direction at resid_post[1]",
        "orthogonal direction at resid_post[1]",
        "random direction at mlp_post[0]",
    ]
    assert [len(one.steerings) for one in conditions] == [1, 1, 1, 2, 2, 2]
    assert [one.place for one in conditions[:3]] == [
        "add(resid_post[1])",
        "add(resid_post[1])",
        "set-neurons(mlp_post[0])",
    ]
    assert sum("give contrast=" in line for line in missing) == 1
    assert sum("no one direction" in line for line in missing) == 2


def test_a_gate_and_a_pattern_are_part_of_the_place():
    from interp.steering.places import TextPattern

    one = steer_with({"resid_post[1]": Add(vector(0))})
    other = one.narrowed(TextPattern("baker"))
    assert describe_place(one) != describe_place(other)
    weighted = replace(one, steps=tuple(replace(step, weight=2.0) for step in one.steps))
    assert describe_place(weighted) == "add(resid_post[1]) weight 2"


def test_unknown_kinds():
    assert check_controls(["random", "random"]) == ("random",)
    with pytest.raises(SteeringError, match="did you mean 'random'"):
        check_controls(["ramdom"])
