"""Which rule covers what, rules of one's own, and everything that no rule covers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import Specimen, make_bare, specimen
from naive_interventions import Prompts, random_prompts
from tiny_models import make_hf_model
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

import interp
from interp import RelevanceRules, RuleError, UserRule
from interp.models.model import Model

TOKENS = random_prompts(0, 2, 6, "none").tokens


def metric(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, -1, :5].sum()


# norms of a block, its MLP, whether there is a last norm and a cap
PRE, GATED, ACT = ("ln1", "ln2"), "gate", "act"
EXPECTED: dict[str, tuple[tuple[str, ...], str | None, bool, bool]] = {
    "gpt2": (PRE, ACT, True, False),
    "gpt_neox": (PRE, ACT, True, False),
    "neox_sequential": (PRE, ACT, True, False),
    "llama": (PRE, GATED, True, False),
    "gemma2": (("ln1", "ln1_post", "ln2", "ln2_post"), GATED, True, True),
    "qwen3": (("ln1", "ln2", "attn.q_norm", "attn.k_norm"), GATED, True, False),
    "qwen3_biased": (("ln1", "ln2", "attn.q_norm", "attn.k_norm"), GATED, True, False),
    "plain": (PRE, ACT, True, False),
    "attention_only": (("ln1",), None, True, False),
    "no_norm": ((), ACT, False, False),
    "gated": (PRE, GATED, True, False),
    "hooked": (PRE, ACT, True, False),
    "hooked_grouped": (PRE, GATED, True, False),
}
KIND_OF = {
    "q": "query_key",
    "k": "query_key",
    "softmax": "softmax",
    "pattern": "pattern_value",
    "v": "pattern_value",
}
# by kind: relp, relp-ah, attnlrp
RULE_OF = {
    "norm": ("LN-rule",) * 3,
    "activation": ("Identity-rule",) * 3,
    "gate": ("Half-rule + Identity-rule",) * 3,
    "soft_cap": ("Identity-rule",) * 3,
    "softmax": ("gradient", "AH-rule", "gradient"),
    "pattern_value": ("gradient", "gradient", "Half-rule"),
    "query_key": ("gradient", "gradient", "Half-rule"),
}


def test_every_operation_has_its_rule(kind: Specimen):
    norms, mlp, last, capped = EXPECTED[kind.name]
    expected = set()
    for block in ("blocks.0", "blocks.1"):
        expected |= {(f"{block}.{norm}", "norm") for norm in norms}
        expected |= {(f"{block}.attn.{name}", what) for name, what in KIND_OF.items()}
        if mlp is not None:
            expected.add((f"{block}.mlp.{mlp}", "gate" if mlp == GATED else "activation"))
    expected |= {("ln_final", "norm")} if last else set()
    expected |= {("soft_cap", "soft_cap")} if capped else set()
    for number, rules in enumerate(("relp", "relp-ah", "attnlrp")):
        table = interp.rule_table(kind.model, rules)
        assert {(row.operation, row.kind) for row in table.rows} == expected
        assert len(table.rows) == len(expected)
        assert {(row.kind, row.rule) for row in table.rows} == {
            (what, RULE_OF[what][number]) for _, what in expected
        }
        assert (table.rules, table.family) == (rules, kind.model.traits.family)
        with interp.relevance_rules(kind.model, rules) as yielded:
            assert yielded == table
    assert {row.rule for row in interp.rule_table(kind.model, "gradient").rows} == {"gradient"}


def test_a_table_as_a_frame_and_in_a_line(gpt2: Specimen):
    table = interp.rule_table(gpt2.model, "relp-ah")
    frame = table.to_frame()
    assert list(frame.columns) == ["operation", "kind", "rule"]
    assert list(frame.itertuples(index=False, name=None)) == [
        (r.operation, r.kind, r.rule) for r in table.rows
    ]
    assert table.summary() == (
        "relp-ah on gpt2 (gpt2): 5 norm: LN-rule, 4 query_key: gradient, 2 softmax: AH-rule, "
        "4 pattern_value: gradient, 2 activation: Identity-rule; linear maps: 0-rule"
    )


def test_parts_of_a_gate_s_rule_are_named():
    model = specimen("llama").model

    def at_gate(**options: Any) -> str:
        table = interp.rule_table(model, RelevanceRules(**options))
        return next(row.rule for row in table.rows if row.kind == "gate")

    assert at_gate(activation="gradient") == "Half-rule"
    assert at_gate(gate="gradient") == "Identity-rule"
    assert at_gate(gate="gradient", activation="gradient") == "gradient"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: interp.rule_table(specimen("gpt2").model, "relpp"), "'relpp'; did you mean 'relp'"),
        (
            lambda: interp.relevance_rules(specimen("gpt2").model, "rel-ah").__enter__(),
            "did you mean 'relp-ah'",
        ),
        (lambda: interp.rule_table(specimen("gpt2").model, 3), "unknown set of relevance rules '3'"),  # type: ignore[arg-type]
        (lambda: RelevanceRules(norm="lm"), "unknown rule for norm 'lm'; did you mean 'ln'"),  # type: ignore[arg-type]
        (lambda: RelevanceRules(attention="relp"), "unknown rule for attention 'relp'"),  # type: ignore[arg-type]
        (lambda: RelevanceRules(activation="half"), "unknown rule for activation 'half'"),  # type: ignore[arg-type]
        (lambda: RelevanceRules(gate="identity"), "unknown rule for gate 'identity'"),  # type: ignore[arg-type]
        (lambda: RelevanceRules(soft_cap="ln"), "unknown rule for soft_cap 'ln'"),  # type: ignore[arg-type]
    ],
)
def test_unknown_rules_are_told(make: Any, message: str):
    with pytest.raises(RuleError, match=message):
        make()


def grads(model: Model, rules: str | RelevanceRules, *sites: str) -> list[Tensor]:
    with interp.relevance_rules(model, rules):
        cache = interp.capture(model, TOKENS, sites, gradients_of=metric)
    assert cache.grads is not None
    return [cache.grads[site] for site in sites]


class Doubled(nn.Module):
    """An MLP of somebody else's."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.sin()


class CustomMLP(LlamaMLP):
    """Has all the parts of a Llama's, and another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)).pow(2) * self.up_proj(x))


def known(kind: str) -> nn.Module:
    """Of a class of this name that says it comes from transformers, and made of linear maps only."""
    made = type(kind, (nn.Sequential,), {"__module__": "transformers.models.tiny.modeling_tiny"})
    return made(nn.Linear(36, 36))


def layer_of(model: Model) -> Any:
    module: Any = model.module
    return module.model.layers[0]._original_component


def refused(model: Model, message: str) -> None:
    """On entering, by the table too, and nothing stays behind."""
    for ask in (interp.rule_table, lambda model: interp.relevance_rules(model).__enter__()):
        with pytest.raises(RuleError, match=message):
            ask(model)
    assert model.active_edits == [] and model.rules_in_force == []


def test_a_module_of_somebody_else_s_put_in_after_loading():
    model = interp.load_model(make_bare("llama"))
    layer_of(model).mlp = Doubled()
    refused(
        model, r"no relevance rule covers module 'model\.layers\.0\._original_component\.mlp' .* a Doubled;"
    )


def test_a_module_of_somebody_else_s_put_in_before_loading():
    bare = make_bare("llama")
    bare.model.layers[1].mlp = CustomMLP(bare.config)
    refused(
        interp.load_model(bare), r"covers module 'model\.layers\.1\._original_component\.mlp.* a CustomMLP;"
    )


@pytest.mark.parametrize("kind_name", ["TinyRouter", "SparseMoeBlock", "TinyExperts", "TinyMoE"])
def test_a_router_is_refused_wherever_it_comes_from(kind_name: str):
    model = interp.load_model(make_bare("llama"))
    layer_of(model).mlp.router = known("TinyBlock")
    interp.rule_table(model)
    layer_of(model).mlp.router = known(kind_name)
    refused(model, f"covers module '.*mlp.router' of 'llama', a {kind_name};")


@pytest.mark.parametrize(
    "extra",
    [
        nn.LayerNorm(36),
        nn.RMSNorm(36),
        LlamaRMSNorm(36),
        nn.GELU(),
        nn.Softmax(-1),
        nn.PReLU(),
        nn.Bilinear(2, 2, 2),
    ],
    ids=lambda extra: type(extra).__name__,
)
@pytest.mark.parametrize("before", [True, False])
def test_a_known_kind_where_no_rule_stands(extra: nn.Module, before: bool):
    """A norm before the MLP, an activation after it: both act, and no hook point shows them."""
    model = interp.load_model(make_bare("llama"))
    layer = layer_of(model)
    layer.mlp = nn.Sequential(extra, layer.mlp) if before else nn.Sequential(layer.mlp, extra)
    refused(model, rf"covers module '.*\.mlp\.{0 if before else 1}' of 'llama', a {type(extra).__name__};")


def test_a_second_activation_in_an_mlp():
    model = interp.load_model(make_bare("llama"))
    mlp = layer_of(model).mlp._original_component
    mlp.act_fn = nn.Sequential(mlp.act_fn, nn.Tanh())
    refused(model, r"covers module '.*act_fn\.1' of 'llama', a Tanh;")


def test_an_activation_with_weights_of_its_own():
    model = interp.load_model(make_bare("llama"))
    layer_of(model).mlp._original_component.act_fn = nn.PReLU()
    refused(model, r"covers module '.*act_fn' of 'llama', a PReLU;")


@pytest.mark.parametrize("option", ["mish", "relu6", "sigmoid"])
def test_an_activation_without_a_form(option: str):
    """Refused by its name, unless a rule of one's own or the gradient stands there."""
    model = interp.load_model(make_hf_model("llama", hidden_act=option))
    refused(model, rf"blocks\.0\.mlp\.gate: unknown activation function '{option}'")
    own = UserRule("own", "blocks.*.mlp.gate", lambda x, y: 0.5 * (x[0] + x[1]))
    for rules in (
        RelevanceRules(custom=(own,)),
        RelevanceRules(activation="gradient", gate="gradient"),
        "gradient",
    ):
        assert all(found.isfinite().all() for found in grads(model, rules, "resid_pre[0]"))
    one_layer = RelevanceRules(custom=(UserRule("own", "blocks.0.mlp.gate", own.surrogate),))
    with pytest.raises(RuleError, match=r"blocks\.1\.mlp\.gate: unknown activation"):
        interp.rule_table(model, one_layer)


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_activation_than_the_config_names(when: str):
    """The form of the config's would be used for it: refused as soon as it has run."""
    bare = make_bare("llama")
    if when == "before":
        bare.model.layers[0].mlp.act_fn = nn.GELU()
    model = interp.load_model(bare)
    if when == "after":
        layer_of(model).mlp._original_component.act_fn = nn.GELU()
    message = r"blocks\.0\.mlp\.gate of 'llama' does not compute what the model's config says"
    with pytest.raises(RuleError, match=message), interp.relevance_rules(model):
        model(TOKENS)
    with interp.relevance_rules(model, RelevanceRules(activation="gradient", gate="gradient")):
        model(TOKENS)


def test_another_norm_than_the_config_names():
    model = interp.load_model(make_bare("llama"))
    layer_of(model).input_layernorm._original_component = nn.LayerNorm(36)
    with pytest.raises(RuleError, match=r"blocks\.0\.ln1 of 'llama' does not compute"):
        grads(model, "relp", "resid_pre[0]")


def test_a_hook_of_someone_else_s_that_changes_a_result(gpt2: Specimen):
    """Its own factor would be lost, for a rule's gradient is that of the operation as it was."""
    point = gpt2.model.hook_points["blocks.1.mlp.out.hook_in"]
    handle = point.register_forward_hook(lambda module, inputs, output: 3 * output)
    try:
        with pytest.raises(RuleError, match=r"blocks\.1\.mlp\.act .*hook of someone else's"):
            grads(gpt2.model, "relp", "resid_pre[0]")
    finally:
        handle.remove()


def test_a_hook_point_passed_by():
    """An MLP that computes the same without its hook points: refused on leaving, unless it has no rule."""
    model = interp.load_model(make_bare("llama"))
    mlp = layer_of(model).mlp
    parts = {name: getattr(mlp._original_component, name) for name in ("gate_proj", "up_proj", "down_proj")}
    maps = {name: part._original_component for name, part in parts.items()}

    def skip(x: Tensor) -> Tensor:
        return maps["down_proj"](nn.functional.silu(maps["gate_proj"](x)) * maps["up_proj"](x))

    with torch.no_grad():
        before = model(TOKENS)
    vars(mlp)["forward"] = skip
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), before)
    for rules in ("relp", "attnlrp"):
        block = interp.relevance_rules(model, rules)
        with pytest.raises(RuleError, match=r"blocks\.0\.mlp\.gate did not act in every forward"), block:
            model(TOKENS)
        assert model.active_edits == [] and model.rules_in_force == []
    with interp.relevance_rules(model, "gradient"):
        model(TOKENS)
    # an error of the block's own is not hidden by it
    with pytest.raises(ZeroDivisionError), interp.relevance_rules(model):
        model(TOKENS)
        _ = 1 / 0
    del vars(mlp)["forward"]
    with interp.relevance_rules(model):
        model(TOKENS)


def test_one_forward_of_several_that_passes_by():
    model = interp.load_model(make_bare("gpt2"))
    module: Any = model.module
    norm = module.transformer.ln_f
    with pytest.raises(RuleError, match="ln_final did not act"), interp.relevance_rules(model):
        model(TOKENS)
        vars(norm)["forward"] = norm._original_component.forward
        model(TOKENS)


def test_some_hook_points_passed_by():
    """The result shows and what entered does not: there is nothing to give the gradient to."""
    model = interp.load_model(make_bare("llama"))
    mlp = layer_of(model).mlp
    own = mlp._original_component

    def skip(x: Tensor) -> Tensor:
        gate = own.gate_proj._original_component(x)
        return own.down_proj(nn.functional.silu(gate) * own.up_proj(x))

    vars(mlp)["forward"] = skip
    message = (
        r"blocks\.0\.mlp\.gate of 'llama' ran without passing its hook point 'blocks\.0\.mlp\.gate\.hook_out'"
    )
    with pytest.raises(RuleError, match=message), interp.relevance_rules(model):
        model(TOKENS)


@pytest.mark.parametrize("options", [{"return_dict": False}, {"labels": TOKENS}], ids=["tuple", "loss"])
def test_capped_logits_that_are_no_output(options: dict[str, Any]):
    """Of a tuple, or of a loss made of them, the rule of the cap does not reach the logits."""
    model = specimen("gemma2").model
    with pytest.raises(RuleError, match="soft_cap did not act"), interp.relevance_rules(model):
        model.module(TOKENS, **options)
    with interp.relevance_rules(model, RelevanceRules(soft_cap="gradient")):
        model.module(TOKENS, **options)
    with torch.no_grad(), interp.relevance_rules(model):
        model.module(TOKENS, **options)


def test_attribution_needs_no_rules():
    """What the message says: a model that no rule covers can be attributed to all the same."""
    model = interp.load_model(make_bare("llama"))
    layer_of(model).mlp.router = known("TinyRouter")
    prompts = Prompts(TOKENS)
    task = interp.tasks.from_tokens(prompts.tokens, prompts.tokens.flip(1), [3, 4], [5, 6])
    scores = interp.patch(model, task, "resid_pre", method="attribution", progress=False)
    assert scores["resid_pre"].raw.isfinite().all()
    with pytest.raises(RuleError, match="a TinyRouter"):
        interp.patch(model, task, "resid_pre", method="relevance", progress=False)
