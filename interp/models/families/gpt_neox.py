"""GPT-NeoX (Pythia): rotary on part of d_head, attention and MLP usually in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models.families.base import (
    PRE_NORM_HOOKS,
    Family,
    Parameters,
    call_rotary,
    split_bias,
    split_heads_out_in,
)
from interp.models.traits import LayerWeights, NormWeights, Traits, Weights


def read_traits(config: Any) -> Traits:
    d_head = config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters or {}
    return Traits(
        family="gpt_neox",
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_attention_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        norm_eps=config.layer_norm_eps,
        act_fn=config.hidden_act,
        parallel_blocks=config.use_parallel_residual,
        positional="rotary",
        rotary_dim=int(d_head * rope.get("partial_rotary_factor", 1.0)),
        attn_scale=d_head**-0.5,
        tied_embeddings=config.tie_word_embeddings,
    )


def hooks_for(traits: Traits) -> Mapping[str, str]:
    if not traits.parallel_blocks:
        return PRE_NORM_HOOKS
    return {name: hook for name, hook in PRE_NORM_HOOKS.items() if name != "resid_mid"}


def read_weights(params: Parameters, traits: Traits) -> Weights:
    return Weights(
        W_E=params["gpt_neox.embed_in.weight"],
        W_U=params["embed_out.weight" if "embed_out.weight" in params else "lm_head.weight"].T,
        ln_final=_norm(params, "gpt_neox.final_layer_norm"),
        layers=tuple(_layer(params, traits, layer) for layer in range(traits.n_layers)),
    )


def _norm(params: Parameters, name: str) -> NormWeights:
    return NormWeights(params[f"{name}.weight"], params[f"{name}.bias"])


def _layer(params: Parameters, traits: Traits, layer: int) -> LayerWeights:
    name = f"gpt_neox.layers.{layer}"
    n, d = traits.n_heads, traits.d_head
    attn = f"{name}.attention"
    return LayerWeights(
        W_Q=split_heads_out_in(params[f"{attn}.q.weight"], n),
        W_K=split_heads_out_in(params[f"{attn}.k.weight"], n),
        W_V=split_heads_out_in(params[f"{attn}.v.weight"], n),
        b_Q=split_bias(params.get(f"{attn}.q.bias"), n),
        b_K=split_bias(params.get(f"{attn}.k.bias"), n),
        b_V=split_bias(params.get(f"{attn}.v.bias"), n),
        W_O=params[f"{attn}.dense.weight"].T.unflatten(0, (n, d)),
        b_O=params.get(f"{attn}.dense.bias"),
        ln1=_norm(params, f"{name}.input_layernorm"),
        ln2=_norm(params, f"{name}.post_attention_layernorm"),
        W_in=params[f"{name}.mlp.dense_h_to_4h.weight"].T,
        b_in=params[f"{name}.mlp.dense_h_to_4h.bias"],
        W_out=params[f"{name}.mlp.dense_4h_to_h.weight"].T,
        b_out=params[f"{name}.mlp.dense_4h_to_h.bias"],
    )


def rotate_by(module: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return call_rotary(module.gpt_neox.rotary_emb, like, positions)


GPT_NEOX = Family(
    "gpt_neox",
    ("GPTNeoXForCausalLM",),
    read_traits,
    read_weights,
    lost_dropout="attention_dropout",
    hooks_for=hooks_for,
    rotary=rotate_by,
)
