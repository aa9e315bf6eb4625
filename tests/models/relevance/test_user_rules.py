"""Rules of one's own: where they stand, what they are given, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from naive_interventions import random_prompts
from torch import Tensor

import interp
from interp import RelevanceRules, RuleError, UserRule
from interp.models.model import Model

TOKENS = random_prompts(0, 2, 6, "none").tokens


def metric(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, -1, :5].sum()


def grads(model: Model, rules: str | RelevanceRules, *sites: str) -> list[Tensor]:
    with interp.relevance_rules(model, rules):
        cache = interp.capture(model, TOKENS, sites, gradients_of=metric)
    assert cache.grads is not None
    return [cache.grads[site] for site in sites]


def test_a_rule_of_one_s_own_stands_at_its_operations_only():
    model = specimen("gpt2").model
    own = UserRule("gamma", at="blocks.1.mlp.act", surrogate=lambda x, y: 0.9 * x[0])
    sites = ["mlp_pre[0]", "mlp_post[0]", "mlp_pre[1]", "mlp_post[1]"]
    pre_0, post_0, pre_1, post_1 = grads(model, RelevanceRules(custom=(own,)), *sites)
    torch.testing.assert_close(pre_1, 0.9 * post_1)
    cache = interp.capture(model, TOKENS, sites)
    torch.testing.assert_close(
        pre_0, post_0 * cache["mlp_post[0]"] / cache["mlp_pre[0]"], rtol=1e-4, atol=1e-6
    )
    rows = {row.operation: row.rule for row in interp.rule_table(model, RelevanceRules(custom=(own,))).rows}
    assert rows["blocks.1.mlp.act"] == "gamma"
    assert rows["blocks.0.mlp.act"] == "Identity-rule"


def test_the_first_of_several_that_fit_holds():
    model = specimen("gpt2").model
    one, other = (
        UserRule(name, at=at, surrogate=lambda x, y, factor=factor: factor * x[0])
        for name, at, factor in (("one", "blocks.*.act", 0.3), ("other", "blocks.0.*.act", 0.7))
    )
    for custom, factors in (((one, other), (0.3, 0.3)), ((other, one), (0.7, 0.3))):
        sites = ["mlp_pre[0]", "mlp_post[0]", "mlp_pre[1]", "mlp_post[1]"]
        pre_0, post_0, pre_1, post_1 = grads(model, RelevanceRules(custom=custom), *sites)
        torch.testing.assert_close(pre_0, factors[0] * post_0)
        torch.testing.assert_close(pre_1, factors[1] * post_1)


@pytest.mark.parametrize(
    "kind_name", ["gemma2", pytest.param("hooked", marks=pytest.mark.hooked_transformer)]
)
def test_what_a_rule_of_one_s_own_is_given(kind_name: str):
    """x of a norm, (gate, up) of a gate, scores of a softmax, logits before their cap; nothing of a factor."""
    model = specimen(kind_name).model
    sites = [s for s in model.components if s not in ("result", "embed")]
    with torch.no_grad():
        cache = interp.capture(model, TOKENS, [f"{site}[0]" for site in sites])
    heads = {"q": 4, "k": model.traits.n_kv_heads, "v": model.traits.n_kv_heads}
    found: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    def watch(name: str) -> UserRule:
        def surrogate(inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            found[name] = (inputs, output)
            return output

        return UserRule(name, at=name, surrogate=surrogate)

    names = [row.operation for row in interp.rule_table(model).rows if "blocks.1" not in row.operation]
    with interp.relevance_rules(model, RelevanceRules(custom=tuple(map(watch, names)))):
        logits = model(TOKENS)
    assert set(found) == set(names)
    for name, (inputs, output) in found.items():
        place = name.rpartition(".")[2]
        if place in heads:
            assert inputs == ()
            assert torch.equal(output.reshape(cache[f"{place}[0]"].shape), cache[f"{place}[0]"])
        elif place in ("softmax", "pattern"):
            assert torch.equal(output, cache["pattern[0]"])
            assert all(torch.equal(one, cache["attn_scores[0]"]) for one in inputs)
            assert len(inputs) == (place == "softmax")
        elif place in ("gate", "act"):
            expected = ["mlp_pre[0]", "mlp_pre_linear[0]"][: len(inputs)]
            assert all(torch.equal(one, cache[site]) for one, site in zip(inputs, expected, strict=True))
            assert len(inputs) == (2 if place == "gate" else 1)
            assert torch.equal(output, cache["mlp_post[0]"])
        elif place == "soft_cap":
            torch.testing.assert_close(6.0 * (inputs[0] / 6.0).tanh(), output)
            assert torch.equal(output, logits)
        elif kind_name == "hooked":
            assert inputs == () and output.shape == (2, 6, 1), "the scale"
        elif place == "ln1":
            assert torch.equal(inputs[0], cache["resid_pre[0]"])
        elif place == "ln2":
            assert torch.equal(inputs[0], cache["resid_mid[0]"])
        elif place == "ln1_post":
            assert torch.equal(output, cache["attn_out[0]"])
        elif place == "ln2_post":
            assert torch.equal(output, cache["mlp_out[0]"])
        else:
            assert place == "ln_final" and len(inputs) == 1


def test_own_rules_that_repeat_the_built_in_ones_change_nothing():
    """Ordinary autograd on a formula with detached parts gives what the rule by name gives."""
    model = specimen("llama").model

    def norm(inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        return x * (output / x).detach()

    def gate(inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        before, up = inputs
        return 0.5 * (before * (output / before).detach() + up * (output / up).detach())

    own = (UserRule("norms", "*ln*", norm), UserRule("gates", "*.gate", gate))
    sites = ["resid_pre[0]", "q[1]", "mlp_pre[0]", "mlp_pre_linear[1]"]
    for mine, built_in in zip(
        grads(model, RelevanceRules(custom=own), *sites), grads(model, "relp", *sites), strict=True
    ):
        torch.testing.assert_close(mine, built_in, rtol=1e-4, atol=1e-5 * float(built_in.abs().max()))


@pytest.mark.parametrize(
    ("surrogate", "message"),
    [
        (
            lambda x, y: x[0][..., :3],
            r"rule 'own' at blocks.0.mlp.act returned \(2, 6, 3\); expected .*\(2, 6, 52\)",
        ),
        (
            lambda x, y: 1.0,
            r"rule 'own' at blocks.0.mlp.act returned float; expected a tensor of shape \(2, 6, 52\)",
        ),
    ],
)
def test_a_rule_of_another_shape_is_refused(surrogate: Any, message: str):
    model = specimen("gpt2").model
    rules = RelevanceRules(custom=(UserRule("own", "blocks.*.mlp.act", surrogate),))
    with pytest.raises(RuleError, match=message), interp.relevance_rules(model, rules):
        model(TOKENS)
    assert model.active_edits == [] and model.rules_in_force == []


def test_a_rule_that_fits_nothing_is_refused():
    model = specimen("gpt2").model
    rules = RelevanceRules(custom=(UserRule("own", "blocks.1.mlp.gate", lambda x, y: y),))
    message = r"unknown operation of rule 'own' 'blocks.1.mlp.gate'; did you mean .*'blocks.1.mlp.act'"
    for ask in (interp.rule_table, lambda *both: interp.relevance_rules(*both).__enter__()):
        with pytest.raises(RuleError, match=message):
            ask(model, rules)
