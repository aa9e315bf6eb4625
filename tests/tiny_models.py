"""Random Hugging Face models of every family: tiny, offline, with odd sizes and sharp attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3")


def make_hf_model(
    family: str,
    seed: int = 0,
    *,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    d_head: int = 10,
    d_model: int = 36,
    d_mlp: int = 52,
    d_vocab: int = 53,
    n_ctx: int = 64,
    init: float = 0.25,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Any:
    """A model in eval mode with random weights, the same for the same arguments.

    ``init`` is far above the usual 0.02, and norms and biases are random too: attention is far
    from uniform and nothing cancels by being 0 or 1. GPT-2 and GPT-NeoX have
    ``d_head = d_model // n_heads`` and no grouped queries. ``config`` goes to the config class.
    """
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_head": d_head}
    sizes |= {"d_model": d_model, "d_mlp": d_mlp, "n_ctx": n_ctx}
    model_class, settings = _BUILDERS[family](**sizes)
    shared = {
        "vocab_size": d_vocab,
        "initializer_range": init,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        "attn_implementation": "eager",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**(shared | settings | config)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.to(dtype).eval()


def _gpt2(*, n_layers: int, n_heads: int, d_model: int, d_mlp: int, n_ctx: int, **_: int) -> tuple[Any, dict]:
    from transformers import GPT2LMHeadModel

    settings = {"n_layer": n_layers, "n_head": n_heads, "n_embd": d_model, "n_inner": d_mlp}
    return GPT2LMHeadModel, settings | {"n_positions": n_ctx}


def _gpt_neox(**sizes: int) -> tuple[Any, dict]:
    from transformers import GPTNeoXForCausalLM

    settings = _common(**sizes)
    del settings["num_key_value_heads"], settings["head_dim"]
    # half of each head rotates: neither none nor all of it
    return GPTNeoXForCausalLM, settings | {"rotary_pct": 0.5, "use_parallel_residual": True}


def _llama(**sizes: int) -> tuple[Any, dict]:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM, _common(**sizes)


def _gemma2(**sizes: int) -> tuple[Any, dict]:
    from transformers import Gemma2ForCausalLM

    # caps low enough and a window short enough to matter; a scale other than d_head ** -0.5
    extra = {
        "sliding_window": 4,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 6.0,
        "query_pre_attn_scalar": 7,
    }
    return Gemma2ForCausalLM, _common(**sizes) | extra


def _qwen3(**sizes: int) -> tuple[Any, dict]:
    from transformers import Qwen3ForCausalLM

    return Qwen3ForCausalLM, _common(**sizes)


def _common(
    *, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, d_model: int, d_mlp: int, n_ctx: int
) -> dict[str, Any]:
    return {
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": d_head,
        "hidden_size": d_model,
        "intermediate_size": d_mlp,
        "max_position_embeddings": n_ctx,
    }


_BUILDERS: dict[str, Callable[..., tuple[Any, dict]]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "gemma2": _gemma2,
    "qwen3": _qwen3,
}
