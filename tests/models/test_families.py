"""Every family: logits are the bare model's, and traits and weights say how they come about."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, Specimen, make_bare, specimen
from naive_interventions import random_prompts
from naive_transformer import NaiveTransformer
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp.errors import ModelError
from interp.types import COMPONENT_AXES, Site

REWRITTEN = ("gpt2",)
"""TransformerLens splits GPT-2's q/k/v map, which rounds otherwise; every other family is bit-equal."""
BOUND = 1e-6
"""Largest difference from Hugging Face's logits, relative to their range, where not bit-equal."""
NAIVE_BOUND = 3e-6
"""The same against the fp64 transformer written out."""


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def test_logits_are_the_bare_model_s(kind: Specimen, tokens: Tensor):
    with torch.no_grad():
        found, expected = kind.model(tokens), kind.bare_logits(tokens)
    if kind.name in REWRITTEN:
        assert relative_error(found, expected) < BOUND
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind: Specimen, side: str):
    """Padded logits are the padded bare model's, and each row is what its prompt gives alone."""
    prompts = random_prompts(5, 4, 11, side)
    with torch.no_grad():
        found = kind.model(prompts.tokens, prompts.mask)
        padded = kind.bare_logits(prompts.tokens, prompts.mask)
        assert relative_error(found[prompts.real], padded[prompts.real]) < BOUND
        for row in range(4):
            alone = kind.bare_logits(prompts.tokens[row][prompts.real[row]][None])[0]
            assert relative_error(found[row][prompts.real[row]], alone) < NAIVE_BOUND


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_traits_and_weights_say_all_there_is(kind: Specimen, side: str):
    """Every activation, recomputed in fp64 from traits and weights alone, is the one captured."""
    prompts = random_prompts(6, 3, 10, side)
    record: dict[tuple[str, int], Tensor] = {}
    logits = kind.naive(prompts.tokens, prompts.mask, record=record)
    with torch.no_grad():
        cache = interp.capture(kind.model, prompts.tokens, kind.model.components, attention_mask=prompts.mask)
    assert cache.logits is not None
    assert relative_error(cache.logits[prompts.real], logits[prompts.real]) < NAIVE_BOUND
    assert {component for component, _ in record} == set(kind.model.components)
    for (component, layer), expected in record.items():
        found = cache[Site(component, None if component == "embed" else layer)]
        assert len(found.shape) == len(COMPONENT_AXES[component])
        where = prompts.real
        if "src_pos" in COMPONENT_AXES[component]:
            found, expected = found.transpose(1, 2), expected.transpose(1, 2)
        found, expected = found[where], expected[where]
        if component == "attn_scores":
            found, expected = found[expected > -1e8], expected[expected > -1e8]
        assert relative_error(found, expected) < NAIVE_BOUND, (component, layer)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "relu"}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("gpt2", {"attn_implementation": "sdpa"}),
    ("gpt_neox", {"tie_word_embeddings": True, "rotary_pct": 1.0, "d_model": 40}),
    ("gpt_neox", {"attn_implementation": "sdpa", "hidden_act": "gelu_new"}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "n_kv_heads": 1, "attn_implementation": "sdpa"}),
    ("llama", {"n_kv_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("qwen3", {"tie_word_embeddings": True, "attn_implementation": "sdpa"}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("gemma2", {"attention_bias": True, "attn_logit_softcapping": None}),
    ("gemma2", {"tie_word_embeddings": False, "final_logit_softcapping": None, "sliding_window": 2}),
]


@pytest.mark.parametrize(("family", "options"), OPTIONS, ids=lambda value: str(value))
def test_options_of_a_family(family: str, options: dict[str, Any], tokens: Tensor):
    bare = make_hf_model(family, **options)
    model = interp.load_model(copy.deepcopy(bare))
    prompts = random_prompts(6, 3, 10, "left")
    with torch.no_grad():
        expected = bare(tokens, use_cache=False).logits
        assert relative_error(model(tokens), expected) < BOUND
        found = model(prompts.tokens, prompts.mask)
    naive = NaiveTransformer(model)
    assert relative_error(naive(tokens), expected) < NAIVE_BOUND
    padded = naive(prompts.tokens, prompts.mask)
    assert relative_error(found[prompts.real], padded[prompts.real]) < NAIVE_BOUND
    is_tied = model.weights.W_E.data_ptr() == model.weights.W_U.data_ptr()
    assert is_tied == model.traits.tied_embeddings == bare.config.tie_word_embeddings


@pytest.mark.parametrize("option", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_options_that_are_refused(option: dict[str, bool]):
    with pytest.raises(ModelError, match=r"scaled by 1 / sqrt.d_head. in every layer"):
        interp.load_model(make_hf_model("gpt2", **option))


def test_an_option_that_transformer_lens_does_not_follow_is_found(monkeypatch: pytest.MonkeyPatch):
    """Whatever it is: the logits are compared before and after wrapping."""
    from interp.models import load

    family = load.FAMILIES["gpt2"]
    monkeypatch.setitem(vars(family), "read_traits", lambda config: specimen("gpt2").model.traits)
    with pytest.raises(ModelError, match=r"logits change by .* an option that is not supported"):
        interp.load_model(make_hf_model("gpt2", scale_attn_weights=False))


EXPECTED_TRAITS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_kv_heads": 4, "d_head": 9, "norm": "layernorm", "positional": "learned", "gated_mlp": False},
    "gpt_neox": {"parallel_blocks": True, "rotary_dim": 4, "tied_embeddings": False, "act_fn": "gelu"},
    "neox_sequential": {"parallel_blocks": False, "family": "gpt_neox"},
    "llama": {"n_kv_heads": 2, "group_size": 2, "d_head": 10, "norm": "rmsnorm", "gated_mlp": True},
    "gemma2": {
        "post_norms": True,
        "norm_plus_one": True,
        "attn_soft_cap": 4.0,
        "final_soft_cap": 6.0,
        "sliding_window": (4, None),
        "attn_scale": 7**-0.5,
        "embed_scale": 6.0,
        "tied_embeddings": True,
    },
    "qwen3": {"qk_norm": True, "norm_eps": 1e-6, "act_fn": "silu"},
    "attention_only": {"d_mlp": 0, "n_ctx": 64, "d_vocab": 53},
    "no_norm": {"norm": None, "tied_embeddings": True},
    "gated": {"positional": "none", "norm": "rmsnorm", "gated_mlp": True},
    "hooked_grouped": {"n_kv_heads": 2, "family": "hooked_transformer", "rotary_dim": 10},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])
        for name in EXPECTED_TRAITS
    ],
)
def test_traits(name: str):
    traits = specimen(name).model.traits
    for trait, expected in EXPECTED_TRAITS[name].items():
        assert getattr(traits, trait) == expected, trait
    assert (traits.n_layers, traits.n_heads, traits.d_model) == (2, 4, 36)
    assert traits.window_of(1) is None


COMPONENTS = {
    "gpt2": {"mlp_pre_linear"},
    "gpt_neox": {"mlp_pre_linear", "resid_mid"},
    "neox_sequential": {"mlp_pre_linear"},
    "llama": set(),
    "gemma2": set(),
    "qwen3": set(),
    "attention_only": {"mlp_in", "mlp_pre", "mlp_post", "mlp_out", "mlp_pre_linear", "resid_mid"},
    "gated": set(),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_nothing_is_offered_that_is_not_there(name: str):
    assert set(COMPONENT_AXES) - set(specimen(name).model.components) == COMPONENTS[name]


DROPOUT = {
    "gpt2": {"attn_pdrop": 0.3, "resid_pdrop": 0.0, "embd_pdrop": 0.3},
    "gpt_neox": {"attention_dropout": 0.0, "hidden_dropout": 0.3},
    "llama": {"attention_dropout": 0.3},
    "gemma2": {"attention_dropout": 0.3},
    "qwen3": {"attention_dropout": 0.3},
}


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_acts_in_training_mode_only(name: str, tokens: Tensor):
    bare = make_hf_model(name, **DROPOUT[name])
    model = interp.load_model(copy.deepcopy(bare).train())
    with torch.no_grad():
        still = bare.eval()(tokens, use_cache=False).logits
        assert relative_error(model(tokens), still) < BOUND  # it comes in evaluation mode
        model.train()
        torch.manual_seed(3)
        dropped = model(tokens)
        assert relative_error(dropped, still) > 1e-3
        torch.manual_seed(3)
        assert torch.equal(model(tokens), dropped)
        torch.manual_seed(3)
        expected = bare.train()(tokens, use_cache=False).logits
        assert relative_error(dropped, expected) < BOUND
        assert relative_error(model.eval()(tokens), still) < BOUND


@pytest.mark.parametrize(("name", "option"), [("gpt2", "resid_pdrop"), ("gpt_neox", "attention_dropout")])
def test_a_dropout_that_is_left_out_is_said(name: str, option: str, recwarn: pytest.WarningsRecorder):
    """TransformerLens drops these in its own attention; with them a run is not Hugging Face's."""
    model = interp.load_model(make_hf_model(name, **{option: 0.3}))
    with pytest.warns(UserWarning, match=f"{option}=0.3 is not applied"):
        model.train()
    model.eval()
    interp.load_model(make_hf_model(name, **{option: 0.0})).train()
    assert not [warning for warning in recwarn if warning.category is UserWarning]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "plain"])
def test_half_precision(name: str, tokens: Tensor):
    bare = make_bare(name).to(torch.bfloat16)
    model = interp.load_model(make_bare(name), dtype=torch.bfloat16)
    with torch.no_grad():
        found = model(tokens)
        expected = (bare(tokens, use_cache=False)).logits
    assert model.dtype == found.dtype == torch.bfloat16
    assert relative_error(found.float(), expected.float()) < 0.03
    cache = interp.capture(model, tokens, model.components, gradients_of=lambda logits: logits.float().sum())
    assert cache.grads is not None
    for component in model.components:
        assert cache[component].dtype == cache.grads[component].dtype == torch.bfloat16
        assert torch.isfinite(cache.grads[component]).all()
    new = model.generate(tokens, 3, eos_token_id=None)
    assert new.shape == (3, 12)


def test_models_say_what_they_are():
    assert repr(specimen("llama").model) == (
        "Model('llama', llama, 2 layers, 4 heads (2 kv), d_model 36, d_mlp 52, vocabulary 53)"
    )


BAD_TOKENS: list[tuple[Tensor, Tensor | None, str]] = [
    (torch.zeros(0, 4).long(), None, r"at least one token; got shape \(0, 4\)"),
    (torch.zeros(2, 0).long(), None, "at least one token"),
    (torch.zeros(1, 2, 3).long(), None, "must be .batch, pos."),
    (torch.zeros(2, 4), None, "must be integer ids; got torch.float32"),
    (torch.full((2, 4), 53), None, r"must lie in 0..52; got 53..53"),
    (torch.full((2, 4), -1), None, "must lie in 0..52"),
    (torch.zeros(1, 65).long(), None, "65 tokens are more than the model's context of 64"),
    (torch.zeros(2, 3).long(), torch.ones(2, 4), r"attention_mask has shape \(2, 4\), tokens \(2, 3\)"),
    (torch.zeros(2, 3).long(), torch.tensor([[1, 1, 1], [0, 0, 0]]), "row 1 .* has no real token"),
    (torch.zeros(2, 3).long(), torch.tensor([[1, 0, 1], [1, 1, 1]]), "row 0 .* padding between its tokens"),
]


@pytest.mark.parametrize(("bad", "mask", "message"), BAD_TOKENS, ids=range(len(BAD_TOKENS)))
def test_tokens_that_cannot_be_run(kind: Specimen, bad: Tensor, mask: Tensor | None, message: str):
    with pytest.raises(ModelError, match=message):
        kind.model(bad, mask)
