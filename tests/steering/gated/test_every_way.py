"""Gated steering, for every kind of gate in every family: cached, uncached, padded, batched, saved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from model_zoo import specimen
from naive_gates import naive_factors, random_condition, random_controller
from naive_interventions import random_prompts
from naive_steering import NaiveStep, make_operation_twin
from steering_runs import check_every_way, left_as_found
from tiny_models import FAMILIES

from interp.steering import load_steering
from interp.steering.apply import apply_rows
from interp.steering.gates import Gate
from interp.steering.steering import Steering, Step
from interp.types import Site

D = 36
# read before, at, and beside where the steering acts
GATES: dict[str, Callable[[], Gate]] = {
    "mean cosine": lambda: random_condition("resid_post[0]", D, 1),
    "max dot": lambda: random_condition(
        "resid_post[0]", D, 2, pooling="max", similarity="dot", threshold=2.0
    ),
    "last cosine": lambda: ~random_condition("resid_pre[0]", D, 3, pooling="last"),
    "mean at the end": lambda: random_condition("resid_post[0]@-1", D, 4),
    "and": lambda: random_condition("resid_post[0]", D, 5) & random_condition("resid_pre[0]", D, 6),
    "nested": lambda: (
        ~(random_condition("resid_post[0]", D, 7) & random_condition("embed", D, 8))
        | random_condition("mlp_out[0]@0", D, 9)
    ),
    "controller": lambda: random_controller(("resid_post[0]@-1", "resid_pre[0]"), D, seed=10),
    "controller with a threshold": lambda: random_controller(("resid_post[0]",), D, seed=11, threshold=0.2),
}


def gated(gate: Gate, d: int = D) -> tuple[Steering, list]:
    twins = [make_operation_twin(name, d, seed) for seed, name in enumerate(("add", "rotate"))]
    sites = (Site("resid_post", 0), Site("resid_post", 1))
    steps = tuple(
        Step(site, twin.operation, weight=weight)
        for site, twin, weight in zip(sites, twins, (1.0, 0.5), strict=True)
    )
    return Steering(steps).gated(gate), twins


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", GATES)
def test_each_gate_in_each_family(family: str, kind: str):
    """Every row as its own prompt alone decides, in every way that a model can run."""
    with left_as_found(family) as on:
        gate = GATES[kind]()
        steering, twins = gated(gate)
        prompts = random_prompts(3, 4, 6, "left")
        factors = [
            naive_factors(gate, on.model, prompts.tokens[row][prompts.real[row]])
            for row in range(len(prompts.tokens))
        ]
        steps = [
            NaiveStep(step, twin.naive, lambda row, s=step: 0.7 * s.weight * factors[row][s.channel])
            for step, twin in zip(steering.steps, twins, strict=True)
        ]
        check_every_way(on, lambda rows: steering.apply(on.model, strength=0.7), steps, prompts)


@pytest.mark.parametrize("kind", GATES)
def test_both_answers_are_seen(kind: str):
    """The gates above are open on some prompts and not on all, or the test of every way says little."""
    seen = []
    for family in FAMILIES:
        on = specimen(family)
        gate = GATES[kind]()
        with torch.no_grad(), gated(gate)[0].apply(on.model, strength=1.0) as applied:
            on.model(random_prompts(5, 40, 6, "none").tokens)
        factors = applied.gate_of(gate)
        assert factors.shape == (40, gate.n_channels)
        # a controller's weights are 1 on average
        seen.append(factors.mean(1))
    share = float((torch.cat(seen) > 0.2).float().mean())
    assert 0.1 < share < 0.9, [round(float(one.mean()), 2) for one in seen]


@pytest.mark.parametrize("kind", GATES)
def test_a_file_keeps_what_a_gate_does(kind: str, tmp_path):
    on = specimen("llama")
    steering, _ = gated(GATES[kind]())
    again = load_steering(steering.save(tmp_path / "gated.safetensors"))
    assert repr(again.steps[0].gate) == repr(steering.steps[0].gate)
    # one gate for both steps, as before
    assert again.steps[0].gate is again.steps[1].gate
    assert [step.channel for step in again.steps] == [step.channel for step in steering.steps]
    prompts = random_prompts(6, 6, 5, "right")
    found = []
    for one in (steering, again):
        with torch.no_grad(), one.apply(on.model, strength=1.3):
            found.append(on.model(prompts.tokens, prompts.mask))
    assert torch.equal(*found)


def test_a_row_decides_by_itself():
    """Other rows, their order and their padding are nothing to a prompt."""
    on = specimen("qwen3")
    gate = GATES["controller"]()
    steering, _ = gated(gate)
    prompts = random_prompts(9, 7, 8, "left")
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    seen = []
    for rows in (torch.arange(7), order, order[:2]):
        with torch.no_grad(), steering.apply(on.model, strength=1.0) as applied:
            on.model(prompts.tokens[rows], prompts.real[rows])
        seen.append(applied.gate_of(gate))
    torch.testing.assert_close(seen[1], seen[0][order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[2], seen[0][order[:2]], atol=1e-5, rtol=1e-5)


def test_gates_of_rows_of_their_own():
    """Two steerings under two gates in one batch, each on its row."""
    on = specimen("gpt2")
    gates = [GATES["mean cosine"](), GATES["controller"]()]
    steerings = [gated(gate)[0] for gate in gates]
    tokens = random_prompts(2, 2, 6, "none").tokens
    with torch.no_grad():
        alone = []
        for row, one in enumerate(steerings):
            with one.apply(on.model, strength=1.0):
                alone.append(on.model(tokens[row : row + 1])[0])
        with apply_rows(on.model, steerings, strength=1.0):
            together = on.model(tokens)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_a_gate_decides_by_the_prompt_and_not_by_what_is_written():
    """Its first decision holds while tokens are generated, and teacher forcing says the same."""
    on = specimen("gpt2")
    gate = random_condition("resid_post[0]", D, 1)
    steering, _ = gated(gate)
    tokens = random_prompts(4, 5, 5, "none").tokens
    with torch.no_grad(), steering.apply(on.model, strength=1.0) as applied:
        on.model(tokens)
        first = applied.gate_of(gate).clone()
        for use_cache in (True, False):
            on.model.generate(tokens, 6, use_cache=use_cache)
            assert torch.equal(applied.gate_of(gate), first)
