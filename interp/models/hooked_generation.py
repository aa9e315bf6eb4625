"""Generation with a ``HookedTransformer``, whose own ``generate`` is not used.

That of TransformerLens 3.9 counts learned positions twice under its cache (cached and uncached
continuations differ) and enters below ``hook_embed``.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ModelError, unknown_name

OPTIONS = ("do_sample", "temperature", "top_k", "top_p", "eos_token_id", "pad_token_id")


@torch.no_grad()
def generate_hooked(
    module: Any,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"],
    max_new_tokens: int,
    use_cache: bool,
    options: dict[str, Any],
) -> Int[Tensor, "batch total"]:
    """Prompt and continuation; rows that have met ``eos_token_id`` go on with ``pad_token_id``.

    ``options`` are those of :data:`OPTIONS`, with Hugging Face's meaning. Raises
    :class:`ModelError` for any other, and for a bidirectional model.
    """
    for name in options:
        if name not in OPTIONS:
            raise ModelError(unknown_name("option of generate with a HookedTransformer", name, OPTIONS))
    if module.cfg.attention_dir != "causal":
        raise ModelError(
            f"a {module.cfg.attention_dir} HookedTransformer cannot generate; it needs a causal one."
        )
    eos = _eos_tokens(options.get("eos_token_id"), tokens.device)
    cache = _new_cache(module, len(tokens)) if use_cache else None
    mask, done = attention_mask.long(), torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_new_tokens):
        seen = 0 if cache is None else int(cache[0].past_keys.shape[1])
        logits = module(tokens[:, seen:], attention_mask=mask[:, seen:], past_kv_cache=cache)[:, -1]
        chosen = torch.where(done, options.get("pad_token_id") or 0, _choose(logits, tokens, options))
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        done |= torch.isin(chosen, eos)
        if bool(done.all()):
            break
    return tokens


def _new_cache(module: Any, batch: int) -> Any:
    from transformer_lens import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(module.cfg, module.cfg.device, batch)


def _eos_tokens(eos: int | list[int] | None, device: torch.device) -> Int[Tensor, " n"]:
    several = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    return torch.tensor(several, dtype=torch.long, device=device)


def _choose(
    logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch pos"], options: dict[str, Any]
) -> Int[Tensor, " batch"]:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if not options.get("do_sample"):
        return logits.argmax(-1)
    warpers = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    for name, warper in warpers.items():
        if options.get(name) is not None:
            logits = warper(options[name])(tokens, logits)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]
