"""What a model is made of: traits and weights, the same words for every family.

Everything above this package reads a model through these two records and never asks which
family it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Traits:
    """Sizes and habits of a decoder-only transformer."""

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    """Fewer than ``n_heads`` under grouped-query attention: query head h reads kv head h // (n_heads / n_kv_heads)."""
    d_model: int
    d_head: int
    d_mlp: int
    """0 for attention-only models."""
    d_vocab: int
    n_ctx: int
    norm: Literal["layernorm", "rmsnorm"] | None = "layernorm"
    norm_eps: float = 1e-5
    norm_plus_one: bool = False
    """RMSNorm multiplies by ``1 + weight`` (Gemma)."""
    post_norms: bool = False
    """A norm after each sublayer, before its output is added (Gemma 2)."""
    parallel_blocks: bool = False
    """Attention and MLP both read resid_pre; there is no resid_mid (GPT-NeoX)."""
    gated_mlp: bool = False
    """``mlp_post = act(mlp_pre) * mlp_pre_linear``."""
    act_fn: str = "gelu_new"
    positional: Literal["learned", "rotary", "none"] = "learned"
    rotary_dim: int = 0
    qk_norm: bool = False
    """RMSNorm over d_head on every query and key head, before rotary (Qwen 3)."""
    attn_scale: float = 1.0
    """Factor on q·k before the softmax, usually ``d_head ** -0.5``."""
    attn_soft_cap: float | None = None
    final_soft_cap: float | None = None
    sliding_window: tuple[int | None, ...] = ()
    """Window of every layer (a query sees itself and window - 1 before it); ``None`` is no window."""
    embed_scale: float = 1.0
    tied_embeddings: bool = False

    @property
    def group_size(self) -> int:
        """Query heads to each key/value head."""
        return self.n_heads // self.n_kv_heads

    def window_of(self, layer: int) -> int | None:
        """Sliding window of a layer, ``None`` when it sees everything."""
        return self.sliding_window[layer] if self.sliding_window else None


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one block, as views on the model's own parameters where their layout allows."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None = None
    b_K: Float[Tensor, "kv_head d_head"] | None = None
    b_V: Float[Tensor, "kv_head d_head"] | None = None
    b_O: Float[Tensor, " d_model"] | None = None
    ln1: NormWeights | None = None
    ln1_post: NormWeights | None = None
    ln2: NormWeights | None = None
    ln2_post: NormWeights | None = None
    q_norm: Float[Tensor, " d_head"] | None = None
    k_norm: Float[Tensor, " d_head"] | None = None
    W_in: Float[Tensor, "d_model d_mlp"] | None = None
    """The linear branch of a gated MLP, the only one otherwise."""
    b_in: Float[Tensor, " d_mlp"] | None = None
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    b_post: Float[Tensor, " d_mlp"] | None = None
    """Added to ``mlp_post`` itself: what a gated ``HookedTransformer`` calls ``b_in``."""
    W_out: Float[Tensor, "d_mlp d_model"] | None = None
    b_out: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True)
class NormWeights:
    """Gain and bias of a LayerNorm or RMSNorm."""

    w: Float[Tensor, " d"]
    b: Float[Tensor, " d"] | None = None


@dataclass(frozen=True)
class Weights:
    """All weights of a model."""

    W_E: Float[Tensor, "d_vocab d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]
    layers: tuple[LayerWeights, ...]
    W_pos: Float[Tensor, "n_ctx d_model"] | None = None
    b_U: Float[Tensor, " d_vocab"] | None = None
    ln_final: NormWeights | None = None
