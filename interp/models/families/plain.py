"""This package's own plain transformer: attention-only, hand-written and norm-free models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.models.families.base import GATED_MLP_HOOKS, PRE_NORM_HOOKS, Family
from interp.models.families.hooked_transformer import read_weights
from interp.models.traits import Traits


def read_traits(config: Any) -> Traits:
    return Traits(
        family="plain",
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head,
        d_mlp=config.d_mlp,
        d_vocab=config.vocab_size,
        n_ctx=config.n_ctx,
        norm=config.norm,
        norm_eps=config.norm_eps,
        gated_mlp=config.gated_mlp,
        act_fn=config.act,
        positional=config.positions or "none",
        attn_scale=config.attn_scale,
        tied_embeddings=config.tie_word_embeddings,
    )


def hooks_for(traits: Traits) -> Mapping[str, str]:
    hooks = PRE_NORM_HOOKS | {"resid_mid": "blocks.{layer}.hook_resid_mid"}
    if traits.gated_mlp:
        hooks |= GATED_MLP_HOOKS
    if not traits.d_mlp:
        hooks = {name: hook for name, hook in hooks.items() if "mlp" not in name and name != "resid_mid"}
    return hooks


PLAIN = Family(
    "plain", ("PlainTransformer",), read_traits, read_weights, hooks_for=hooks_for, resid_mid_acts=True
)
