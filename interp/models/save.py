"""Writing a loaded model as a folder that ``load_model`` and Hugging Face read."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.models.model import Model

_HEADS = ("lm_head.weight", "embed_out.weight", "unembed.W_U")
_TABLES = ("wte.weight", "embed_in.weight", "embed_tokens.weight", "embed.W_E")
_PARTS = re.compile(r"\.(q|k|v|qkv)\.(weight|bias)$")
"""Parts of a fused map, by TransformerLens' names."""
_BIASES = ("attention_bias", "mlp_bias", "attn_bias")
"""Options of configs that give maps a bias."""


def save_model(model: Model, folder: str | Path) -> Path:
    """Write the weights as they are now, the config and the tokenizer into ``folder``.

    A wrapped model cannot be saved as it stands, so the weights go into a bare one of the same config. Biases that
    were added switch the config's option for them on, those of the other layers being zero; an unembedding
    that was untied switches tying off. Raises :class:`ModelError` for a ``HookedTransformer``, and where
    the architecture has no place for a bias.
    """
    if model.is_hooked_transformer:
        raise ModelError("a HookedTransformer has no Hugging Face folder; save its state_dict() instead.")
    folder = Path(folder)
    weights = model.named_weights()
    with torch.random.fork_rng(devices=[]):
        bare = _bare(model, weights)
    bare.to(model.dtype)
    state = bare.state_dict()
    new = {name: weights[name] if name in weights else torch.zeros_like(state[name]) for name in state}
    bare.load_state_dict(new)
    _refuse_other_logits(model, bare.eval())
    bare.save_pretrained(folder)
    if hasattr(model.tokenizer, "save_pretrained"):
        model.tokenizer.save_pretrained(folder)
    return folder


def _bare(model: Model, weights: Mapping[str, Tensor]) -> Any:
    """A fresh model with a place for every weight."""
    kind: Any = type(model.module)
    config: Any = copy.deepcopy(model.module.config)
    if _is_untied(weights):
        config.tie_word_embeddings = False
    bare = kind(config)
    if _without_place(bare, weights):
        for option in _BIASES:
            if getattr(config, option, None) is False:
                setattr(config, option, True)
        bare = kind(config)
    lost = _without_place(bare, weights)
    if lost:
        raise ModelError(
            f"{kind.__name__} has no place for {lost[0]}: its files cannot hold this model. Bake again after "
            "loading, or steer by hooks."
        )
    return bare


def _is_untied(weights: Mapping[str, Tensor]) -> bool:
    """Whether the unembedding has values of its own."""
    heads, tables = (
        [value for name, value in weights.items() if name.endswith(ends)] for ends in (_HEADS, _TABLES)
    )
    return bool(heads and tables) and heads[0].data_ptr() != tables[0].data_ptr()


def _without_place(bare: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """Weights that the bare model keeps under no name, the longest name first."""
    kept = {weights[name].untyped_storage().data_ptr() for name in bare.state_dict() if name in weights}
    lost = [
        name
        for name, value in weights.items()
        if value.untyped_storage().data_ptr() not in kept and not _PARTS.search(name)
    ]
    return sorted(lost, key=len, reverse=True)


@torch.no_grad()
def _refuse_other_logits(model: Model, bare: Any) -> None:
    """Parts of a fused map may be copies of it: a change of theirs would be lost."""
    tokens = torch.arange(min(8, model.traits.n_ctx, model.traits.d_vocab), device=model.device)[None]
    wrapped, alone = (
        model(tokens).double(),
        bare.to(model.device)(input_ids=tokens, use_cache=False).logits.double(),
    )
    difference = float((wrapped - alone).abs().max())
    if not difference <= 0.01 * float(alone.abs().max()):
        raise ModelError(
            f"what would be written gives other logits (by {difference:.3g}): the model is being intervened on, or "
            "parts of a fused map were changed that its files do not hold."
        )
