"""Interventions that stay in force while the model learns."""

from __future__ import annotations

import copy

import pytest
import torch
from model_zoo import HOOKED, NAMES, make_bare
from torch import Tensor
from torch.nn import functional as F

import interp
from interp.models.model import Model

TRAINED = [
    pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else []) for name in NAMES
]


def train(model: Model, tokens: Tensor, steps: int = 3) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", TRAINED)
def test_a_clamped_pattern_stays_clamped_while_the_model_learns(name: str, tokens: Tensor):
    """Head 1 of layer 0 is pinned to a fixed pattern for some steps, and free again afterwards."""
    model = interp.load_model(make_bare(name))
    sites = ["pattern[0]", "pattern[1]"]
    pinned = interp.clamp("pattern[0.1]", min=0.25, max=0.25)
    before = copy.deepcopy([weight.detach() for weight in model.weights.layers[0].W_Q])
    with interp.intervene(model, pinned):
        losses = train(model, tokens)
        inside = interp.capture(model, tokens, sites)
    assert losses[-1] < losses[0]
    assert (inside["pattern[0.1]"] == 0.25).all()
    others = inside["pattern[0]"][:, [0, 2, 3]].detach()
    torch.testing.assert_close(others.sum(-1), torch.ones(3, 3, 9))
    after = interp.capture(model, tokens, sites)["pattern[0.1]"].detach()
    torch.testing.assert_close(after.sum(-1), torch.ones(3, 9))
    moved = [not torch.equal(old, new) for old, new in zip(before, model.weights.layers[0].W_Q, strict=True)]
    # nothing is learnt through a pattern that is pinned: its queries keep their weights to the bit
    assert moved == [True, False, True, True]
    assert model.active_edits == []


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "plain"])
def test_a_vector_learns_through_the_model(name: str, tokens: Tensor):
    """The model's weights are frozen; a steering vector alone brings the loss down."""
    model = interp.load_model(make_bare(name))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    vector = torch.zeros(36, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=0.1)
    losses = []
    with interp.intervene(model, interp.add("resid_mid[0]@3:", vector)):
        for _ in range(15):
            loss = F.cross_entropy(model(tokens)[:, -1], torch.full((3,), 11))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    assert torch.isfinite(vector).all()


def test_an_intervention_sees_the_weights_of_each_step(tokens: Tensor):
    """``result`` is made from W_O as it is in the forward that runs, not as it was on entering."""
    model = interp.load_model(make_bare("llama"))
    with interp.intervene(model, interp.zero("result[1.2]")):
        train(model, tokens)
        with torch.no_grad():
            through_result = model(tokens)
    with torch.no_grad(), interp.intervene(model, interp.zero("z[1.2]")):
        through_z = model(tokens)
    torch.testing.assert_close(through_result, through_z, atol=1e-5, rtol=1e-5)


def test_an_error_in_training_takes_the_hooks_away(tokens: Tensor):
    model = interp.load_model(make_bare("gpt2"))
    with pytest.raises(KeyboardInterrupt), interp.intervene(model, interp.clamp("pattern[0.1]", 0, 0)):
        train(model, tokens, steps=1)
        raise KeyboardInterrupt
    assert not any(point._forward_hooks for point in model.hook_points.values())
    assert not model.module._forward_pre_hooks
