"""The controller: its network, its bounds, and gradients through the steered model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_zoo import make_bare, specimen
from naive_gates import naive_factors, random_controller
from naive_interventions import random_prompts

import interp
from interp.errors import SteeringError
from interp.steering.controller import Controller
from interp.steering.controller.losses import LabelLoss, cross_entropy, divergence
from interp.steering.gated.scored import read_prompts
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import Site

D = 36
NAMES = ("W_in", "b_in", "W_out", "b_out")


def steering(n: int = 2) -> Steering:
    draw = torch.Generator().manual_seed(0)
    return Steering(tuple(Step(Site("resid_post", i), Add(torch.randn(D, generator=draw))) for i in range(n)))


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_factors_are_those_written_out(threshold):
    on = specimen("qwen3")
    gate = random_controller(("resid_post[0]@-1", "mlp_out[0]"), D, channels=3, seed=4, threshold=threshold)
    prompts = random_prompts(1, 8, 6, "left")
    rows = [row[real] for row, real in zip(prompts.tokens, prompts.real, strict=True)]
    found = gate.decide(read_prompts(on.model, gate.sites, rows)).detach()
    wanted = torch.tensor([naive_factors(gate, on.model, row) for row in rows])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_gate_and_weights_are_bounded():
    """However large the network's outputs: a gate in [0, 1], weights of 1 on average."""
    gate = random_controller(("embed",), D, channels=4, seed=1)
    wild = replace(gate, W_out=1e3 * gate.W_out)
    for one in (gate, wild):
        odds, weights = one.outputs(torch.randn(50, D, generator=torch.Generator().manual_seed(2)))
        assert bool(((odds.sigmoid() >= 0) & (odds.sigmoid() <= 1)).all())
        torch.testing.assert_close(weights.mean(1), torch.ones(50))
        assert bool((weights >= 0).all())


def test_labels_give_the_layer_weights_no_gradient():
    """As published: the loss is of the gate alone. The behaviour's is not."""
    draw = torch.Generator().manual_seed(0)
    gate = random_controller(("resid_post[0]",), D, channels=2)
    learned = [getattr(gate, name).requires_grad_() for name in NAMES]
    loss = LabelLoss(*(torch.randn(6, D, generator=draw) for _ in range(2)))
    found = dict(
        zip(
            NAMES,
            torch.autograd.grad(loss(gate, torch.arange(6), torch.arange(4)).loss, learned),
            strict=True,
        )
    )
    assert float(found["W_out"][1:].abs().max()) == 0
    assert float(found["b_out"][1:].abs().max()) == 0
    assert float(found["W_out"][0].abs().min()) > 0
    assert float(found["W_in"].abs().max()) > 0

    on = specimen("gpt2")
    with steering().gated(gate).apply(on.model, strength=1.0):
        logits = on.model(random_prompts(0, 4, 5, "none").tokens)
    through = dict(
        zip(NAMES, torch.autograd.grad(logits.log_softmax(-1)[..., 3].mean(), learned), strict=True)
    )
    assert float(through["b_out"][1:].abs().min()) > 1e-6


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_gradients_are_slopes_of_the_steered_model(family):
    """Through every later layer, against central differences in double precision."""
    model = interp.load_model(make_bare(family).to(torch.float64))
    tokens = random_prompts(0, 3, 5, "none").tokens

    def value(gate: Controller) -> torch.Tensor:
        with steering().gated(gate).apply(model, strength=0.8):
            return model(tokens).log_softmax(-1)[..., 3].mean()

    gate = random_controller(("resid_post[0]",), D, seed=2)
    for name, at in (("b_out", (0,)), ("b_out", (1,)), ("W_out", None), ("W_in", None)):
        tensor = getattr(gate, name).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(replace(gate, **{name: tensor})), tensor)
        # of a matrix the entry that moves most: the gate itself is in fp32, whose rounding drowns small slopes
        at = at or tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
        step = 2e-2
        ends = []
        for sign in (1, -1):
            moved = getattr(gate, name).clone()
            moved[at] += sign * step
            with torch.no_grad():
                ends.append(float(value(replace(gate, **{name: moved}))))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(gradient[at]) == pytest.approx(slope, rel=0.02, abs=2e-6), name


def test_divergence_and_its_gradient():
    """Beside torch's own; words that are never said bring no NaN."""
    draw = torch.Generator().manual_seed(0)
    base, steered = torch.randn(2, 3, 7, generator=draw), torch.randn(2, 3, 7, generator=draw)
    base[..., 2] = steered[..., 2] = -torch.inf
    steered.requires_grad_()
    found = divergence(base, steered)
    keep = [0, 1, 3, 4, 5, 6]
    p, q = base[..., keep].softmax(-1), steered[..., keep].softmax(-1)
    torch.testing.assert_close(found, (p * (p / q).log()).sum(-1))
    (gradient,) = torch.autograd.grad(found.sum(), steered)
    torch.testing.assert_close(gradient[..., keep], (q - p).detach(), atol=1e-6, rtol=1e-5)
    assert float(gradient[..., 2].abs().max()) == 0
    assert float(divergence(base, base).abs().max()) < 1e-6


def test_cross_entropy_at_the_ends():
    gate = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    found = cross_entropy(gate, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.isfinite(found)
    assert torch.isfinite(torch.autograd.grad(found, gate)[0]).all()


def test_a_copy_is_detached():
    gate = random_controller(("embed",), D)
    gate.W_in.requires_grad_()
    copy = gate.detached()
    assert not copy.W_in.requires_grad
    assert copy.W_in.data_ptr() != gate.W_in.data_ptr()
    assert copy.n_channels == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(b_out=torch.zeros(5)), r"W_out \[1 \+ channel, hidden\]"),
        (dict(W_out=torch.zeros(1, 5), b_out=torch.zeros(1)), "b_out"),
        (dict(read=()), "reads at least one site"),
        (dict(read=(Site("resid_post"),)), "reads one layer"),
    ],
)
def test_tensors_that_do_not_fit(changes, message):
    with pytest.raises(SteeringError, match=message):
        replace(random_controller(("embed",), D), **changes)


def test_another_models_activations():
    on = specimen("gpt2")
    gate = random_controller(("resid_post[0]",), 30)
    with pytest.raises(SteeringError, match=r"takes 30 entries of .* there are 36"):
        gate.score(read_prompts(on.model, gate.sites, [torch.arange(4)]))
    with pytest.raises(SteeringError, match="has 2 channels; a step asks for number 2"):
        Steering(steering(1).steps * 3).gated(random_controller(("resid_post[0]",), D))
