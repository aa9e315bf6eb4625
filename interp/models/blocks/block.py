"""One transformer block as plain functions of its weights."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.models.blocks.layers import (
    ACTIVATIONS,
    Linear,
    apply_stored_norm,
    join_heads_out,
    join_linears,
    norm_of,
    rms_norm,
    rotate,
)
from interp.models.traits import LayerWeights, NormWeights, Traits


class Block:
    """The pieces of one layer, for every family: traits say which of them a model has."""

    def __init__(self, layer: int, weights: LayerWeights, traits: Traits) -> None:
        self.layer = layer
        self.traits = traits
        self.weights = weights
        self.window = traits.window_of(layer)
        self.attention_norm, self.mlp_norm = (norm_of(ln, traits) for ln in (weights.ln1, weights.ln2))
        self.queries = Linear(join_heads_out(weights.W_Q), _joined(weights.b_Q))
        self.keys = Linear(join_heads_out(weights.W_K), _joined(weights.b_K))
        self.values = Linear(join_heads_out(weights.W_V), _joined(weights.b_V))
        self._joined: dict[tuple[str, ...], Linear | None] = {
            names: join_linears([getattr(self, name) for name in names])
            for names in (("queries", "keys", "values"), ("keys", "values"))
        }
        self.output = Linear(weights.W_O.flatten(0, 1), weights.b_O)
        self.has_mlp = weights.W_in is not None
        if weights.W_in is not None and weights.W_out is not None:
            self.mlp_in = Linear(weights.W_in, weights.b_in)
            self.mlp_out = Linear(weights.W_out, weights.b_out)
            self.act = ACTIVATIONS[traits.act_fn]
        self.gate = None if weights.W_gate is None else Linear(weights.W_gate, weights.b_gate)

    def normalise(self, x: Float[Tensor, "*rest d"], norm: NormWeights | None) -> Float[Tensor, "*rest d"]:
        """``x`` through one of this block's norms."""
        return apply_stored_norm(x, norm, self.traits)

    def project(self, x: Float[Tensor, "n d_model"], *names: str) -> list[Float[Tensor, "n out"]]:
        """Queries, keys or values of normalised ``x``, in one product where their maps lie side by side."""
        joined = self._joined.get(names)
        if joined is None:
            return [getattr(self, name)(x) for name in names]
        sizes = [getattr(self, name).weight.shape[1] for name in names]
        return list(joined(x).split(sizes, dim=1))

    def turn_queries(
        self, q: Float[Tensor, "row pos head d_head"], cos: Tensor | None, sin: Tensor | None
    ) -> Float[Tensor, "row pos head d_head"]:
        """Queries as they meet keys: normalised where the family does, then rotated."""
        return self._turn(q, self.weights.q_norm, cos, sin)

    def turn_keys(
        self, k: Float[Tensor, "row pos kv_head d_head"], cos: Tensor | None, sin: Tensor | None
    ) -> Float[Tensor, "row pos kv_head d_head"]:
        """Keys as they meet queries."""
        return self._turn(k, self.weights.k_norm, cos, sin)

    def _turn(self, x: Tensor, gain: Tensor | None, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        if self.traits.qk_norm:
            x = rms_norm(x, gain, self.traits)
        return x if cos is None or sin is None else rotate(x, cos, sin)

    def score(
        self,
        products: Float[Tensor, "row kv_head group_dest src"],
        visible: Bool[Tensor, "#row #head dest src"],
        group: int,
    ) -> Float[Tensor, "row head dest src"]:
        """Attention scores from products of queries and keys: scale, soft cap and mask. Each key head serves
        ``group`` query heads, which stand one after another on the query axis. ``products`` is used up."""
        scores = products.mul_(self.traits.attn_scale)
        scores = scores.view(len(scores), -1, scores.shape[2] // group, scores.shape[3])
        if self.traits.attn_soft_cap is not None:
            capped = scores.div_(self.traits.attn_soft_cap).tanh_()
            # its own value is what autograd keeps of a tanh
            scores = (capped.mul if capped.requires_grad else capped.mul_)(self.traits.attn_soft_cap)
        return scores.masked_fill_(~visible, torch.finfo(scores.dtype).min)

    def weigh(self, scores: Float[Tensor, "*rest src"]) -> Float[Tensor, "*rest src"]:
        """Attention pattern of scores; the softmax is taken in fp32 at least."""
        if scores.dtype in (torch.float32, torch.float64):
            return scores.softmax(-1)
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)

    def mlp_hidden(
        self, pre: Float[Tensor, "*rest d_mlp"], linear: Float[Tensor, "*rest d_mlp"] | None
    ) -> Float[Tensor, "*rest d_mlp"]:
        """``mlp_post`` of what enters the activation and, in a gated MLP, of the linear branch."""
        post = self.act(pre) if linear is None else self.act(pre) * linear
        return post if self.weights.b_post is None else post + self.weights.b_post

    def mlp(
        self, x: Float[Tensor, "n d_model"], out: Float[Tensor, "n d_model"] | None = None
    ) -> Float[Tensor, "n d_model"]:
        """The whole MLP of normalised ``x``, before any norm after it."""
        if self.gate is None:
            return self.mlp_out(self.mlp_hidden(self.mlp_in(x), None), out)
        return self.mlp_out(self.mlp_hidden(self.gate(x), self.mlp_in(x)), out)

    def finish_attention(self, o: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """``attn_out`` of the projected heads: a norm where the family has one after the sublayer."""
        return self.normalise(o, self.weights.ln1_post) if self.traits.post_norms else o

    def finish_mlp(self, out: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
        """``mlp_out`` of the MLP's own output, likewise."""
        return self.normalise(out, self.weights.ln2_post) if self.traits.post_norms else out


def _joined(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.reshape(-1)
