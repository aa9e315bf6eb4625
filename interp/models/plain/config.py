"""The options of a plain transformer."""

from __future__ import annotations

import math
from typing import Any

from transformers import PreTrainedConfig

from interp.errors import ModelError, unknown_name

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "identity")
NORMS = ("layernorm", "rmsnorm")

# What Hugging Face itself passes beside the fields of a class.
_HUGGING_FACE_KEYS = frozenset(
    {"model_type", "name_or_path", "transformers_version", "torch_dtype", "attn_implementation"}
)


class PlainConfig(PreTrainedConfig):
    """Shape and options of a :class:`~interp.models.plain.PlainTransformer`.

    Raises :class:`~interp.errors.ModelError` for an unknown option or values that do not fit.
    """

    model_type = "interp_plain"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - read by Hugging Face under this name
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model",
        "head_dim": "d_head",
        "intermediate_size": "d_mlp",
        "max_position_embeddings": "n_ctx",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    vocab_size: int = 64
    n_ctx: int = 64
    """Longest sequence; also the rows of the position table."""
    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_head: int | None = None
    """``None`` is ``d_model / n_heads``; ``n_heads * d_head`` need not be ``d_model``."""
    d_mlp: int = 0
    """0 makes the model attention-only: its blocks have no MLP module at all."""
    gated_mlp: bool = False
    """``mlp_post = act(x W_gate + b_gate) * (x W_in + b_in)`` instead of ``act(x W_in + b_in)``."""
    act: str = "gelu_new"
    norm: str | None = "layernorm"
    norm_eps: float = 1e-5
    positions: str | None = "learned"
    attn_scale: float | None = None
    """Factor on the attention scores; ``None`` is ``1 / sqrt(d_head)``."""
    attn_bias: bool = True
    mlp_bias: bool = True
    unembed_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    """Standard deviation of fresh matrices; those that write to the residual stream get it divided
    by ``sqrt(2 n_layers)``."""
    embed_init_std: float | None = None
    """Standard deviation of fresh token embeddings; ``None`` is ``initializer_range``."""
    position_init: str = "normal"
    """``normal``, or ``sinusoidal``: fresh positions are sines and cosines (they train on)."""
    position_init_std: float | None = None
    """Root mean square of fresh position embeddings; ``None`` is ``initializer_range``."""
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        known = set(type(self).attribute_map) | _HUGGING_FACE_KEYS
        for key in kwargs:
            if key not in known and not key.startswith("_"):
                raise ModelError(unknown_name("option of PlainConfig", key, type(self).__annotations__))
        for alias in list(kwargs):
            if alias in type(self).attribute_map:
                setattr(self, type(self).attribute_map[alias], kwargs.pop(alias))
        self._check_sizes()
        self._check_choices()
        super().__post_init__(**kwargs)

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_layers", "n_heads", "d_model"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.d_mlp < 0:
            raise ModelError(f"d_mlp must be 0 (attention only) or more; got {self.d_mlp}.")
        if self.d_head is None:
            if self.d_model % self.n_heads:
                raise ModelError(
                    f"d_model {self.d_model} does not divide among {self.n_heads} heads; give d_head, "
                    "any size fits."
                )
            self.d_head = self.d_model // self.n_heads
        if self.d_head < 1:
            raise ModelError(f"d_head must be at least 1; got {self.d_head}.")
        if self.attn_scale is None:
            self.attn_scale = 1 / math.sqrt(self.d_head)

    def _check_choices(self) -> None:
        choices = {
            "act": ACTIVATIONS,
            "norm": (*NORMS, None),
            "positions": ("learned", None),
            "position_init": ("normal", "sinusoidal"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ModelError(unknown_name(name, str(value), [str(item) for item in allowed]))
