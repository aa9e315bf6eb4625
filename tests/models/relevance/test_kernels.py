"""Rules whose backwards run as kernels: the same coefficients, conservation, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from model_zoo import make_bare, specimen
from torch import Tensor, nn

import interp
from interp.errors import RuleError
from interp.kernels import use_kernels
from interp.models.model import Model
from interp.models.relevance import RelevanceRules

pytestmark = pytest.mark.interpreter

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "gated")
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def coefficients(model: Model, rules: str | RelevanceRules) -> dict[str, Tensor]:
    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1].sin().sum(-1)

    with interp.relevance_rules(model, rules):
        cache = interp.capture(model, TOKENS, ["resid_pre", "q", "v", "mlp_pre"], gradients_of=metric)
    assert cache.grads is not None
    return {str(site): cache.grads[site] for site in cache}


@pytest.mark.parametrize("name", FAMILIES)
def test_coefficients_are_those_of_the_chains(name: str) -> None:
    model = specimen(name).model
    others = (
        RelevanceRules(activation="gradient"),
        RelevanceRules(gate="gradient"),
        RelevanceRules(norm="gradient"),
    )
    for rules in ("relp", "attnlrp", *others):
        usual = coefficients(model, rules)
        with use_kernels("triton"):
            found = coefficients(model, rules)
        assert found.keys() == usual.keys() and len(found) == 4
        for site, expected in usual.items():
            size = float(expected.abs().max())
            torch.testing.assert_close(found[site], expected, rtol=0, atol=1e-5 * size, msg=f"{site} {rules}")


@pytest.mark.parametrize("name", FAMILIES)
def test_forwards_are_the_same_to_the_bit(name: str) -> None:
    model = specimen(name).model
    plain = model(TOKENS)
    with use_kernels("triton"), interp.relevance_rules(model):
        ruled = model(TOKENS)
    assert torch.equal(plain, ruled) and ruled.requires_grad


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_relevance_is_conserved(name: str) -> None:
    model = specimen(name).model
    task = interp.tasks.from_tokens(TOKENS, TOKENS.flip(0), torch.tensor([7, 8]), torch.tensor([1, 2]))
    for rules in ("relp", "relp-ah"):
        usual = interp.check_conservation(model, task, rules)
        with use_kernels("triton"):
            found = interp.check_conservation(model, task, rules)
        assert found.largest_gap < 1e-4
        torch.testing.assert_close(found.relevance, usual.relevance, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.biases, usual.biases, rtol=1e-4, atol=1e-5)


def test_parameters_get_their_gradients_too() -> None:
    model = interp.load_model(make_bare("gpt2"))
    parameters = {name: p.requires_grad_() for name, p in model.module.named_parameters() if p.ndim == 1}

    def gradients() -> list[Tensor | None]:
        with interp.relevance_rules(model):
            score = model(TOKENS)[:, -1].sin().sum()
        return list(torch.autograd.grad(score, list(parameters.values()), allow_unused=True))

    usual = gradients()
    with use_kernels("triton"):
        found = gradients()
    size = max(float(right.abs().max()) for right in usual if right is not None)
    for name, ours, right in zip(parameters, found, usual, strict=True):
        assert (ours is None) == (right is None), name
        if ours is not None and right is not None:
            torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize("place", ["norm", "activation"])
def test_an_exchanged_module_is_refused(place: str) -> None:
    bare = make_bare("llama")
    if place == "norm":
        bare.model.layers[1].input_layernorm.variance_epsilon = 3.0
    else:
        bare.model.layers[1].mlp.act_fn = nn.GELU()
    model = interp.load_model(bare)
    with use_kernels("triton"), pytest.raises(RuleError, match=r"blocks\.1\.\S+ of .* does not compute"):
        coefficients(model, "relp")
