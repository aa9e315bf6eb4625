"""Llama and its relatives: RMSNorm, rotary, grouped-query attention, gated MLP.

Gemma 2 (norms after the sublayers, soft caps, sliding window) and Qwen 3 (normalised queries and
keys) differ in traits and a few extra weights only, so they share the reader.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.models.families.base import (
    GATED_MLP_HOOKS,
    PRE_NORM_HOOKS,
    Family,
    Parameters,
    call_rotary,
    split_bias,
    split_heads_out_in,
)
from interp.models.traits import LayerWeights, NormWeights, Traits, Weights

LLAMA_HOOKS = {**PRE_NORM_HOOKS, **GATED_MLP_HOOKS}
GEMMA2_HOOKS = {
    **LLAMA_HOOKS,
    "attn_out": "blocks.{layer}.ln1_post.hook_out",
    "mlp_out": "blocks.{layer}.ln2_post.hook_out",
}


def _common_traits(config: Any, family: str, **more: Any) -> Traits:
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    traits: dict[str, Any] = dict(
        family=family,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        norm="rmsnorm",
        norm_eps=config.rms_norm_eps,
        gated_mlp=True,
        act_fn=getattr(config, "hidden_act", None) or config.hidden_activation,
        positional="rotary",
        rotary_dim=d_head,
        attn_scale=d_head**-0.5,
        sliding_window=_windows(config),
        tied_embeddings=config.tie_word_embeddings,
    )
    return Traits(**(traits | more))


def _windows(config: Any) -> tuple[int | None, ...]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def read_llama_traits(config: Any) -> Traits:
    return _common_traits(config, "llama")


def read_gemma2_traits(config: Any) -> Traits:
    return _common_traits(
        config,
        "gemma2",
        norm_plus_one=True,
        post_norms=True,
        act_fn=config.hidden_activation,
        attn_scale=config.query_pre_attn_scalar**-0.5,
        attn_soft_cap=config.attn_logit_softcapping,
        final_soft_cap=config.final_logit_softcapping,
        embed_scale=config.hidden_size**0.5,
    )


def read_qwen3_traits(config: Any) -> Traits:
    return _common_traits(config, "qwen3", qk_norm=True)


def read_weights(params: Parameters, traits: Traits) -> Weights:
    tied = "lm_head.weight" not in params
    return Weights(
        W_E=params["model.embed_tokens.weight"],
        W_U=params["model.embed_tokens.weight" if tied else "lm_head.weight"].T,
        b_U=params.get("lm_head.bias"),
        ln_final=NormWeights(params["model.norm.weight"]),
        layers=tuple(_layer(params, traits, layer) for layer in range(traits.n_layers)),
    )


def _norm(params: Parameters, name: str) -> NormWeights | None:
    weight = params.get(f"{name}.weight")
    return None if weight is None else NormWeights(weight)


def _layer(params: Parameters, traits: Traits, layer: int) -> LayerWeights:
    name = f"model.layers.{layer}"
    n, kv, d = traits.n_heads, traits.n_kv_heads, traits.d_head
    attn, mlp = f"{name}.self_attn", f"{name}.mlp"
    norms = _gemma2_norms(params, name) if traits.post_norms else _llama_norms(params, name)
    return LayerWeights(
        W_Q=split_heads_out_in(params[f"{attn}.q_proj.weight"], n),
        W_K=split_heads_out_in(params[f"{attn}.k_proj.weight"], kv),
        W_V=split_heads_out_in(params[f"{attn}.v_proj.weight"], kv),
        b_Q=split_bias(params.get(f"{attn}.q_proj.bias"), n),
        b_K=split_bias(params.get(f"{attn}.k_proj.bias"), kv),
        b_V=split_bias(params.get(f"{attn}.v_proj.bias"), kv),
        W_O=params[f"{attn}.o_proj.weight"].T.unflatten(0, (n, d)),
        b_O=params.get(f"{attn}.o_proj.bias"),
        q_norm=params.get(f"{attn}.q_norm.weight"),
        k_norm=params.get(f"{attn}.k_norm.weight"),
        W_gate=params[f"{mlp}.gate_proj.weight"].T,
        b_gate=params.get(f"{mlp}.gate_proj.bias"),
        W_in=params[f"{mlp}.up_proj.weight"].T,
        b_in=params.get(f"{mlp}.up_proj.bias"),
        W_out=params[f"{mlp}.down_proj.weight"].T,
        b_out=params.get(f"{mlp}.down_proj.bias"),
        **norms,
    )


def _llama_norms(params: Parameters, name: str) -> dict[str, Any]:
    return {
        "ln1": _norm(params, f"{name}.input_layernorm"),
        "ln2": _norm(params, f"{name}.post_attention_layernorm"),
    }


def _gemma2_norms(params: Parameters, name: str) -> dict[str, Any]:
    return {
        "ln1": _norm(params, f"{name}.input_layernorm"),
        "ln1_post": _norm(params, f"{name}.post_attention_layernorm"),
        "ln2": _norm(params, f"{name}.pre_feedforward_layernorm"),
        "ln2_post": _norm(params, f"{name}.post_feedforward_layernorm"),
    }


def rotate_by(module: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return call_rotary(module.model.rotary_emb, like, positions)


LLAMA = Family("llama", ("LlamaForCausalLM",), read_llama_traits, read_weights, LLAMA_HOOKS, rotary=rotate_by)
GEMMA2 = Family(
    "gemma2", ("Gemma2ForCausalLM",), read_gemma2_traits, read_weights, GEMMA2_HOOKS, rotary=rotate_by
)
QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",), read_qwen3_traits, read_weights, LLAMA_HOOKS, rotary=rotate_by)
