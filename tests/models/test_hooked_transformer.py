"""Models loaded as TransformerLens ``HookedTransformer``, of any config it allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_interventions import random_prompts
from naive_transformer import NaiveTransformer
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import ModelError

pytestmark = pytest.mark.hooked_transformer

CONFIGS: dict[str, dict[str, Any]] = {
    "layer norm": {"normalization_type": "LN"},
    "folded norms": {"normalization_type": "LNPre"},
    "attention only, no norm": {"normalization_type": None, "attn_only": True},
    "relu, no norm": {"normalization_type": None, "act_fn": "relu"},
    "rotary": {"normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 6},
    "grouped": {"normalization_type": "RMSPre", "n_key_value_heads": 2},
    "gated": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "parallel": {"normalization_type": "LN", "parallel_attn_mlp": True},
    "soft caps": {"normalization_type": "LN", "attn_scores_soft_cap": 4.0, "output_logits_soft_cap": 6.0},
    "local": {
        "normalization_type": "LN",
        "use_local_attn": True,
        "window_size": 3,
        "attn_types": ["local", "global"],
    },
    "no attention scale": {"normalization_type": "LN", "use_attn_scale": False},
    "own attention scale": {"normalization_type": "LN", "attn_scale": 2.0},
    "split inputs": {"normalization_type": "LN", "use_split_qkv_input": True, "use_attn_result": True},
    "post norms": {"normalization_type": "RMS", "use_normalization_before_and_after": True},
}


def make_hooked(**options: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    tokenizer = options.pop("tokenizer", None)
    sizes = {
        "d_vocab": 53,
        "n_ctx": 32,
        "n_layers": 2,
        "n_heads": 4,
        "d_model": 36,
        "d_head": 10,
        "d_mlp": 52,
    }
    shared = {"act_fn": "gelu_new", "initializer_range": 0.25, "device": "cpu", "seed": 0}
    model = HookedTransformer(HookedTransformerConfig(**(sizes | shared | options)), tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) == 0 or parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


@pytest.mark.parametrize("what", CONFIGS)
def test_every_config_is_described_by_its_traits_and_weights(what: str, tokens: Tensor):
    hooked = make_hooked(**CONFIGS[what])
    model = interp.load_model(hooked)
    naive, record = NaiveTransformer(model), {}
    with torch.no_grad():
        assert torch.equal(model(tokens), hooked(tokens))
        torch.testing.assert_close(model(tokens), naive(tokens, record=record).float(), atol=2e-5, rtol=1e-4)
        for side in ("left", "right"):
            prompts = random_prompts(2, 3, 8, side)
            found = model(prompts.tokens, prompts.mask)[prompts.real]
            expected = naive(prompts.tokens, prompts.mask)[prompts.real].float()
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        cache = interp.capture(model, tokens, model.components)
    for component in set(model.components) - {"attn_scores"}:
        value = cache[component] if component == "embed" else cache[component][1]
        expected = record[component, 0 if component == "embed" else 1]
        torch.testing.assert_close(value, expected.float(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("what", CONFIGS)
def test_generation_with_and_without_a_cache(what: str, tokens: Tensor):
    """That of TransformerLens itself differs between the two; ours is the forward, again and again."""
    hooked = make_hooked(**CONFIGS[what])
    model = interp.load_model(hooked)
    expected = tokens
    for _ in range(6):
        expected = torch.cat([expected, hooked(expected)[:, -1].argmax(-1)[:, None]], dim=1)
    assert torch.equal(model.generate(tokens, 6), expected)
    assert torch.equal(model.generate(tokens, 6, use_cache=False), expected)
    with interp.intervene(model, [interp.zero("z[1.2]"), interp.add("embed@gen", torch.ones(36))]):
        found = [model.generate(tokens, 6, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], expected)


def test_result_is_absent_behind_a_post_norm(tokens: Tensor):
    """A head's output has no place of its own in the residual stream there."""
    model = interp.load_model(make_hooked(**CONFIGS["post norms"]))
    with pytest.raises(interp.SiteError, match="has no 'result'"):
        interp.capture(model, tokens, "result")


def test_result_and_attn_out_share_a_hook_and_keep_their_order(tokens: Tensor):
    """The heads' outputs are summed into attn_out, so they are edited first, wherever they are listed."""
    model = interp.load_model(make_hooked(**CONFIGS["layer norm"]))
    edits = [interp.scale("attn_out[0]", 0.0), interp.add("result[0.1]", torch.ones(36))]
    for order in (edits, edits[::-1]):
        with torch.no_grad(), interp.intervene(model, order):
            cache = interp.capture(model, tokens, ["attn_out[0]", "result[0]"])
        assert cache["attn_out[0]"].abs().max() == 0
        bare = interp.capture(model, tokens, "result[0.1]")["result[0.1]"]
        torch.testing.assert_close(cache["result[0.1]"], bare + 1)


def test_bidirectional_attention(tokens: Tensor):
    """It runs, and is patched; padding and generation have no meaning there."""
    hooked = make_hooked(normalization_type="LN", attention_dir="bidirectional")
    model = interp.load_model(hooked)
    assert torch.equal(model(tokens), hooked(tokens))
    with torch.no_grad(), interp.intervene(model, interp.zero("z[0.1]@-1")):
        changed = model(tokens)
    assert (changed[:, 0] != model(tokens)[:, 0]).any()
    prompts = random_prompts(2, 3, 8, "left")
    with pytest.raises(ModelError, match="bidirectional HookedTransformer attends to padding"):
        model(prompts.tokens, prompts.mask)
    with pytest.raises(ModelError, match="bidirectional HookedTransformer cannot generate"):
        model.generate(tokens, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"normalization_type": "RMS", "n_key_value_heads": 2, "ungroup_grouped_query_attention": True},
            "ungroup_grouped_query_attention=True is not supported",
        ),
        ({"normalization_type": "LN", "act_fn": "gelu"}, None),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str | None):
    hooked = make_hooked(**options)
    if message is None:
        interp.load_model(hooked)
        return
    with pytest.raises(ModelError, match=message):
        interp.load_model(hooked)


def test_generation_takes_the_usual_options_and_no_others(tokens: Tensor):
    model = interp.load_model(make_hooked(normalization_type="LN"))
    with pytest.raises(ModelError, match="unknown option of generate with a HookedTransformer 'num_beams'"):
        model.generate(tokens, 3, num_beams=2)
    with pytest.raises(ModelError, match="did you mean 'temperature'"):
        model.generate(tokens, 3, temprature=2.0)
    torch.manual_seed(0)
    nucleus = model.generate(tokens, 4, do_sample=True, top_p=1e-6)
    assert torch.equal(nucleus, model.generate(tokens, 4))
    assert torch.equal(model.generate(tokens, 4, do_sample=True, top_k=1), nucleus)


def test_a_tokenizer_of_its_own(tokens: Tensor):
    """Its pad token is its end token: what is padding is said by the mask and never guessed."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<bos>"})
    tokenizer.padding_side = "left"
    hooked = make_hooked(normalization_type="LN")
    hooked.tokenizer = tokenizer
    model = interp.load_model(hooked)
    assert model.tokenizer is tokenizer
    assert model.prepend_bos is True
    with_bos = torch.cat([torch.zeros(3, 2).long(), tokens], dim=1)
    expected = NaiveTransformer(model)(with_bos).float()
    torch.testing.assert_close(model(with_bos).detach(), expected, atol=2e-5, rtol=1e-4)


def test_it_equals_the_plain_transformer_of_the_same_weights(tokens: Tensor):
    """Two implementations, one state dict, one set of activations and interventions."""
    from interp.models.plain import PlainConfig, PlainTransformer

    hooked = make_hooked(normalization_type="LN")
    sizes = {"vocab_size": 53, "n_ctx": 32, "n_heads": 4, "d_model": 36, "d_head": 10, "d_mlp": 52}
    plain = PlainTransformer(PlainConfig(**sizes, unembed_bias=True))
    wanted = plain.state_dict()
    plain.load_state_dict({key: value for key, value in hooked.state_dict().items() if key in wanted})
    models = [interp.load_model(hooked), interp.load_model(plain)]
    interventions = [interp.add("resid_mid[0]@3", torch.ones(36)), interp.clamp("pattern[1.2]", 0.1, 0.3)]
    found = []
    for model in models:
        with interp.intervene(model, interventions):
            found.append(interp.capture(model, tokens, model.components))
    for component in models[0].components:
        if component != "attn_scores":
            torch.testing.assert_close(found[0][component], found[1][component], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["relu, no norm", "parallel", "post norms", "gated"])
def test_what_enters_the_mlp_is_apart_from_the_stream(name: str, tokens: Tensor):
    """Without a norm it is the residual stream's very tensor, and still has a gradient and edits of its own."""
    model = interp.load_model(make_hooked(**CONFIGS[name]))
    naive, record = NaiveTransformer(model), dict[Any, Tensor]()
    probe = torch.zeros(36, dtype=torch.float64, requires_grad=True)
    naive(tokens, edits={("mlp_in", 0): lambda x: x + probe})[:, -1, 3].sum().backward()
    cache = interp.capture(model, tokens, "mlp_in[0]", gradients_of=lambda logits: logits[:, -1, 3])
    assert cache.grads is not None and probe.grad is not None
    found = cache.grads["mlp_in[0]"].sum((0, 1)).double()
    torch.testing.assert_close(found, probe.grad, atol=1e-4, rtol=1e-3)
    expected = naive(tokens, edits={("mlp_in", 0): lambda x: x * 2}, record=record).float()
    torch.testing.assert_close(cache["mlp_in[0]"], record["mlp_in", 0].float() / 2, atol=2e-5, rtol=1e-4)
    with torch.no_grad(), interp.intervene(model, interp.scale("mlp_in[0]", 2.0)):
        found = model(tokens)
    # of norm-free logits, which grow
    assert (found - expected).abs().max() < 3e-6 * (expected.max() - expected.min())
