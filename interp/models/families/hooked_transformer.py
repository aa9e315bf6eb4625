"""Models loaded as TransformerLens ``HookedTransformer`` (transformer-lens 3.x), of any config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.errors import ModelError
from interp.models.families.base import Family, Parameters
from interp.models.traits import LayerWeights, NormWeights, Traits, Weights

_NORMS = {"LN": "layernorm", "LNPre": "layernorm", "RMS": "rmsnorm", "RMSPre": "rmsnorm", None: None}
_POSITIONS = {"standard": "learned", "rotary": "rotary", "shortformer": "learned"}


def read_traits(config: Any) -> Traits:
    if config.normalization_type not in _NORMS:
        raise ModelError(
            f"HookedTransformer with normalization_type={config.normalization_type!r} is not supported; "
            f"expected one of {', '.join(map(repr, _NORMS))}."
        )
    if config.n_key_value_heads and config.ungroup_grouped_query_attention:
        raise ModelError(
            "HookedTransformer with ungroup_grouped_query_attention=True is not supported; grouped queries are read "
            "as they are: call set_ungroup_grouped_query_attention(False)."
        )
    window = config.window_size if config.use_local_attn else None
    kinds = config.attn_types or ["local" if window else "global"] * config.n_layers
    return Traits(
        family="hooked_transformer",
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_key_value_heads or config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head,
        d_mlp=0 if config.attn_only else config.d_mlp,
        d_vocab=config.d_vocab_out,
        n_ctx=config.n_ctx,
        norm=_NORMS[config.normalization_type],  # type: ignore[arg-type]
        norm_eps=config.eps,
        post_norms=bool(config.use_normalization_before_and_after),
        parallel_blocks=bool(config.parallel_attn_mlp),
        gated_mlp=bool(config.gated_mlp),
        act_fn=config.act_fn or "none",
        positional=_POSITIONS.get(config.positional_embedding_type, "none"),  # type: ignore[arg-type]
        rotary_dim=config.rotary_dim or 0,
        qk_norm=bool(config.use_qk_norm),
        attn_scale=1.0 / config.attn_scale if config.use_attn_scale else 1.0,
        attn_soft_cap=config.attn_scores_soft_cap if config.attn_scores_soft_cap > 0 else None,
        final_soft_cap=config.output_logits_soft_cap if config.output_logits_soft_cap > 0 else None,
        sliding_window=tuple(window if kind == "local" else None for kind in kinds) if window else (),
    )


def hooks_for(traits: Traits) -> Mapping[str, str]:
    hooks = {
        "embed": "hook_embed",
        "resid_pre": "blocks.{layer}.hook_resid_pre",
        "resid_post": "blocks.{layer}.hook_resid_post",
        "attn_out": "blocks.{layer}.hook_attn_out",
        "q": "blocks.{layer}.attn.hook_q",
        "k": "blocks.{layer}.attn.hook_k",
        "v": "blocks.{layer}.attn.hook_v",
        "z": "blocks.{layer}.attn.hook_z",
        "attn_scores": "blocks.{layer}.attn.hook_attn_scores",
        "pattern": "blocks.{layer}.attn.hook_pattern",
    }
    if not traits.post_norms:
        hooks["o"] = hooks["attn_out"]
    if not traits.parallel_blocks and traits.d_mlp:
        hooks["resid_mid"] = "blocks.{layer}.hook_resid_mid"
    if traits.d_mlp:
        hooks |= {
            "mlp_in": "blocks.{layer}.mlp.hook_in",
            "mlp_out": "blocks.{layer}.hook_mlp_out",
            "mlp_pre": "blocks.{layer}.mlp.hook_pre",
            "mlp_post": "blocks.{layer}.mlp.hook_post",
        }
    if traits.gated_mlp:
        hooks["mlp_pre_linear"] = "blocks.{layer}.mlp.hook_pre_linear"
    return hooks


def read_weights(params: Parameters, traits: Traits) -> Weights:
    return Weights(
        W_E=params["embed.W_E"],
        W_U=params["unembed.W_U"] if "unembed.W_U" in params else params["embed.W_E"].T,
        b_U=params.get("unembed.b_U"),
        W_pos=params.get("pos_embed.W_pos"),
        ln_final=_norm(params, "ln_final"),
        layers=tuple(_layer(params, traits, layer) for layer in range(traits.n_layers)),
    )


def _norm(params: Parameters, name: str) -> NormWeights | None:
    weight = params.get(f"{name}.w")
    return None if weight is None else NormWeights(weight, params.get(f"{name}.b"))


def _layer(params: Parameters, traits: Traits, layer: int) -> LayerWeights:
    name = f"blocks.{layer}"
    grouped = "_" if traits.n_kv_heads != traits.n_heads else ""

    # a gated HookedTransformer adds b_in after the product, the plain transformer before it
    b_in = "b_post" if traits.gated_mlp and traits.family == "hooked_transformer" else "b_in"

    def kv(kind: str) -> Any:
        weight = params.get(f"{name}.attn.{grouped}{kind}")
        return params.get(f"{name}.attn.{kind}") if weight is None else weight

    return LayerWeights(
        W_Q=params[f"{name}.attn.W_Q"],
        W_K=kv("W_K"),
        W_V=kv("W_V"),
        W_O=params[f"{name}.attn.W_O"],
        b_Q=params.get(f"{name}.attn.b_Q"),
        b_K=kv("b_K"),
        b_V=kv("b_V"),
        b_O=params.get(f"{name}.attn.b_O"),
        ln1=_norm(params, f"{name}.ln1"),
        ln1_post=_norm(params, f"{name}.ln1_post"),
        ln2=_norm(params, f"{name}.ln2"),
        ln2_post=_norm(params, f"{name}.ln2_post"),
        q_norm=params.get(f"{name}.attn.q_norm.w"),
        k_norm=params.get(f"{name}.attn.k_norm.w"),
        W_in=params.get(f"{name}.mlp.W_in"),
        W_gate=params.get(f"{name}.mlp.W_gate"),
        b_gate=params.get(f"{name}.mlp.b_gate"),
        W_out=params.get(f"{name}.mlp.W_out"),
        b_out=params.get(f"{name}.mlp.b_out"),
        **{b_in: params.get(f"{name}.mlp.b_in")},
    )


HOOKED_TRANSFORMER = Family(
    "hooked_transformer",
    ("HookedTransformer",),
    read_traits,
    read_weights,
    hooks_for=hooks_for,
    resid_mid_acts=True,
)
