"""What a family must say about itself; one file a family beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from interp.models.traits import Traits, Weights

Parameters = Mapping[str, Tensor]

PRE_NORM_HOOKS: dict[str, str] = {
    "embed": "embed.hook_out",
    "resid_pre": "blocks.{layer}.hook_in",
    "resid_mid": "blocks.{layer}.ln2.hook_in",
    "mlp_in": "blocks.{layer}.ln2.hook_out",
    "resid_post": "blocks.{layer}.hook_out",
    "attn_out": "blocks.{layer}.attn.hook_out",
    "mlp_out": "blocks.{layer}.mlp.hook_out",
    "q": "blocks.{layer}.attn.q.hook_out",
    "k": "blocks.{layer}.attn.k.hook_out",
    "v": "blocks.{layer}.attn.v.hook_out",
    "z": "blocks.{layer}.attn.o.hook_in",
    "o": "blocks.{layer}.attn.o.hook_out",
    "attn_scores": "blocks.{layer}.attn.hook_attn_scores",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "mlp_pre": "blocks.{layer}.mlp.in.hook_out",
    "mlp_post": "blocks.{layer}.mlp.out.hook_in",
}
GATED_MLP_HOOKS: dict[str, str] = {
    "mlp_pre": "blocks.{layer}.mlp.gate.hook_out",
    "mlp_pre_linear": "blocks.{layer}.mlp.in.hook_out",
}


@dataclass(frozen=True)
class Family:
    """How one architecture maps to traits, weights and hook points."""

    name: str
    architectures: tuple[str, ...]
    """Hugging Face class names this family covers."""
    read_traits: Callable[[Any], Traits]
    """From the model's config."""
    read_weights: Callable[[Parameters, Traits], Weights]
    """From the model's parameters by their Hugging Face names."""
    hooks: Mapping[str, str] = field(default_factory=lambda: PRE_NORM_HOOKS)
    """Hook-point name of each component, ``{layer}`` to be filled in. ``"o"`` is the attention
    output before any post-norm: where ``result`` is edited."""
    resid_mid_acts: bool = False
    """Whether an edit at the resid_mid hook also reaches the residual stream that skips the MLP."""
    lost_dropout: str | None = None
    """An option of the config, a dropout that TransformerLens does not (always) apply in training."""
    hooks_for: Callable[[Traits], Mapping[str, str]] | None = None
    """Hook names that depend on the traits (optional MLP, gating), instead of ``hooks``."""
    rotary: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """From the module, a tensor of the wanted dtype and positions [prompt, pos] to the cosines and
    sines [prompt, pos, rotary] that it rotates with; halves of a head are pairs."""

    def hook_names(self, traits: Traits) -> Mapping[str, str]:
        """The hook-point name of every component this model has."""
        return self.hooks if self.hooks_for is None else self.hooks_for(traits)


def call_rotary(embedding: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a Hugging Face rotary embedding, past any wrapping."""
    cos, sin = getattr(embedding, "_original_component", embedding)(like, positions)
    return cos, sin


_ADDED = ("lm_head._original_component.bias", "embed_out._original_component.bias")
_REPLACED = (".qkv._original_component.weight", ".qkv._original_component.bias")


def is_added(name: str) -> bool:
    """Whether a parameter is TransformerLens' own: zeros it adds to a map that has no bias."""
    return name.endswith(_ADDED)


def is_replaced(name: str) -> bool:
    """Whether a parameter is out of use: a fused q/k/v map, whose parts are views on it."""
    return name.endswith(_REPLACED)


def named_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters by their Hugging Face names, tied ones under every name they have.

    TransformerLens wraps modules in place, which puts ``_original_component`` into their names.
    """
    return {
        name.replace("_original_component.", ""): parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not is_added(name)
    }


def split_heads_out_in(weight: Tensor, n_heads: int) -> Tensor:
    """A ``nn.Linear`` weight [head * d_head, d_model] as a view [head, d_model, d_head]."""
    return rearrange(weight, "(head d_head) d_model -> head d_model d_head", head=n_heads)


def split_bias(bias: Tensor | None, n_heads: int) -> Tensor | None:
    """A bias [head * d_head] as a view [head, d_head]."""
    return None if bias is None else rearrange(bias, "(head d_head) -> head d_head", head=n_heads)
