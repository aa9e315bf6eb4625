"""GPT-2: learned positions, LayerNorm, one fused q/k/v map (split by TransformerLens), GELU."""

from __future__ import annotations

from typing import Any

from interp.errors import ModelError
from interp.models.families.base import Family, Parameters, split_bias, split_heads_out_in
from interp.models.traits import LayerWeights, NormWeights, Traits, Weights


def read_traits(config: Any) -> Traits:
    d_head = config.n_embd // config.n_head
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise ModelError(
            "a GPT-2 with scale_attn_by_inverse_layer_idx=True or scale_attn_weights=False is not supported; "
            "its attention must be scaled by 1 / sqrt(d_head) in every layer."
        )
    return Traits(
        family="gpt2",
        n_layers=config.n_layer,
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_model=config.n_embd,
        d_head=d_head,
        d_mlp=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        d_vocab=config.vocab_size,
        n_ctx=config.n_positions,
        norm_eps=config.layer_norm_epsilon,
        act_fn=config.activation_function,
        attn_scale=d_head**-0.5,
        tied_embeddings=config.tie_word_embeddings,
    )


def read_weights(params: Parameters, traits: Traits) -> Weights:
    return Weights(
        W_E=params["transformer.wte.weight"],
        W_U=params["lm_head.weight"].T,
        W_pos=params["transformer.wpe.weight"],
        ln_final=_norm(params, "transformer.ln_f"),
        layers=tuple(_layer(params, traits, layer) for layer in range(traits.n_layers)),
    )


def _norm(params: Parameters, name: str) -> NormWeights:
    return NormWeights(params[f"{name}.weight"], params[f"{name}.bias"])


def _layer(params: Parameters, traits: Traits, layer: int) -> LayerWeights:
    name = f"transformer.h.{layer}"
    n, d = traits.n_heads, traits.d_head
    attn = f"{name}.attn"
    return LayerWeights(
        W_Q=split_heads_out_in(params[f"{attn}.q.weight"], n),
        W_K=split_heads_out_in(params[f"{attn}.k.weight"], n),
        W_V=split_heads_out_in(params[f"{attn}.v.weight"], n),
        b_Q=split_bias(params[f"{attn}.q.bias"], n),
        b_K=split_bias(params[f"{attn}.k.bias"], n),
        b_V=split_bias(params[f"{attn}.v.bias"], n),
        W_O=params[f"{attn}.c_proj.weight"].unflatten(0, (n, d)),
        b_O=params[f"{attn}.c_proj.bias"],
        ln1=_norm(params, f"{name}.ln_1"),
        ln2=_norm(params, f"{name}.ln_2"),
        W_in=params[f"{name}.mlp.c_fc.weight"],
        b_in=params[f"{name}.mlp.c_fc.bias"],
        W_out=params[f"{name}.mlp.c_proj.weight"],
        b_out=params[f"{name}.mlp.c_proj.bias"],
    )


GPT2 = Family("gpt2", ("GPT2LMHeadModel",), read_traits, read_weights, lost_dropout="resid_pdrop")
