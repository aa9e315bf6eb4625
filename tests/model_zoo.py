"""One tiny loaded model of every kind that ``interp`` supports, each made once a session."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from naive_transformer import NaiveTransformer
from tiny_models import FAMILIES, make_hf_model

PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention_only": {"d_mlp": 0, "attn_bias": False},
    "no_norm": {"norm": None, "act": "relu", "tie_word_embeddings": True, "initializer_range": 0.1},
    "gated": {"gated_mlp": True, "norm": "rmsnorm", "act": "silu", "positions": None, "unembed_bias": True},
}
HOOKED: dict[str, dict[str, Any]] = {
    "hooked": {"normalization_type": "LN"},
    "hooked_grouped": {
        "normalization_type": "RMS",
        "n_key_value_heads": 2,
        "positional_embedding_type": "rotary",
        "rotary_dim": 10,
        "gated_mlp": True,
        "act_fn": "silu",
    },
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "neox_sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "qwen3_biased": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
}
NAMES = (*FAMILIES, *VARIANTS, *PLAIN, *HOOKED)


@dataclass(frozen=True)
class Specimen:
    """A loaded model, the same model never touched by ``interp``, and the one written out."""

    name: str
    model: Any = field(repr=False)
    bare: Any = field(repr=False)
    naive: NaiveTransformer = field(repr=False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"specimen({self.name!r})")

    def bare_logits(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits without ``interp``."""
        if self.name in HOOKED:
            return self.bare(tokens, attention_mask=None if mask is None else mask.long())
        inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
        if mask is not None:
            inputs |= {
                "attention_mask": mask.long(),
                "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0),
            }
        return self.bare(**inputs).logits


def make_bare(name: str, seed: int = 0) -> Any:
    """A fresh model of a kind, as Hugging Face or TransformerLens makes it."""
    if name in FAMILIES:
        return make_hf_model(name, seed)
    if name in VARIANTS:
        family, options = VARIANTS[name]
        return make_hf_model(family, seed, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _make_plain(PLAIN[name]) if name in PLAIN else _make_hooked(HOOKED[name])
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim == 1 or float(parameter.abs().max()) == 0:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.eval()


def _make_plain(options: dict[str, Any]) -> Any:
    from interp.models.plain import PlainConfig, PlainTransformer

    sizes = {"vocab_size": 53, "n_ctx": 64, "n_heads": 4, "d_model": 36, "d_head": 10, "d_mlp": 52}
    return PlainTransformer(PlainConfig(**(sizes | {"initializer_range": 0.25} | options)))


def _make_hooked(options: dict[str, Any]) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {
        "d_vocab": 53,
        "n_ctx": 64,
        "n_layers": 2,
        "n_heads": 4,
        "d_model": 36,
        "d_head": 10,
        "d_mlp": 52,
    }
    shared = {"act_fn": "gelu_new", "initializer_range": 0.25, "device": "cpu"}
    return HookedTransformer(HookedTransformerConfig(**(sizes | shared | options)))


@cache
def specimen(name: str) -> Specimen:
    """The loaded model of a kind; made once, so tests must leave it as it was."""
    from interp import load_model

    module = make_bare(name)
    bare = copy.deepcopy(module)
    model = load_model(module)
    return Specimen(name, model, bare, NaiveTransformer(model))
