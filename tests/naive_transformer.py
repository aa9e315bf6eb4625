"""A transformer written out from a model's traits and weights, without hooks: the second route to a number.

Every activation is computed by the plainest formula that gives it, in float64, and any of them
can be changed on the way. Nothing of how a model is really run is used: no cache, no hook points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Edit = Callable[[Tensor], Tensor]
MASKED = -1e9

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "identity": lambda x: x,
}


class NaiveTransformer:
    """Reads an ``interp`` model's traits and weights once; call it with tokens."""

    def __init__(self, model: Any) -> None:
        self.traits = model.traits
        self.weights = model.weights
        config = getattr(model.module, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        self.theta = rope.get(
            "rope_theta", getattr(getattr(model.module, "cfg", None), "rotary_base", 10_000)
        )

    def __call__(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        edits: Mapping[tuple[str, int], Edit] | None = None,
        record: dict[tuple[str, int], Tensor] | None = None,
    ) -> Tensor:
        """Logits; ``edits`` change an activation where it arises, ``record`` is filled with all of them."""
        self.edits, self.record = dict(edits or {}), {} if record is None else record
        mask = torch.ones_like(tokens).bool() if mask is None else mask.bool()
        self.positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        at = torch.arange(tokens.shape[1])
        self.distance = at[:, None] - at[None]
        self.visible = (self.distance >= 0) & mask[:, None, None]
        traits, weights = self.traits, self.weights
        x = self._site("embed", 0, _wide(weights.W_E)[tokens] * traits.embed_scale)
        if weights.W_pos is not None:
            x = x + _wide(weights.W_pos)[self.positions]
        for layer in range(traits.n_layers):
            x = self._block(layer, x)
        x = self._norm(x, weights.ln_final)
        logits = x @ _wide(weights.W_U)
        if weights.b_U is not None:
            logits = logits + _wide(weights.b_U)
        cap = traits.final_soft_cap
        return logits if cap is None else cap * (logits / cap).tanh()

    def _site(self, component: str, layer: int, value: Tensor) -> Tensor:
        if (component, layer) in self.edits:
            value = self.edits[component, layer](value)
        self.record[component, layer] = value
        return value

    def _block(self, layer: int, x: Tensor) -> Tensor:
        w, traits = self.weights.layers[layer], self.traits
        x = self._site("resid_pre", layer, x)
        attn = self._attention(layer, self._norm(x, w.ln1))
        if traits.post_norms:
            attn = self._norm(attn, w.ln1_post)
        mid = x + self._site("attn_out", layer, attn)
        if traits.d_mlp and not traits.parallel_blocks:
            mid = self._site("resid_mid", layer, mid)
        if traits.d_mlp:
            out = self._mlp(layer, self._norm(x if traits.parallel_blocks else mid, w.ln2))
            if traits.post_norms:
                out = self._norm(out, w.ln2_post)
            mid = mid + self._site("mlp_out", layer, out)
        return self._site("resid_post", layer, mid)

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        w, traits = self.weights.layers[layer], self.traits
        q = self._site("q", layer, _affine("bpm,hmd->bphd", x, w.W_Q, w.b_Q))
        k = self._site("k", layer, _affine("bpm,hmd->bphd", x, w.W_K, w.b_K))
        v = self._site("v", layer, _affine("bpm,hmd->bphd", x, w.W_V, w.b_V))
        if traits.qk_norm:
            q, k = self._rms(q) * _wide(w.q_norm), self._rms(k) * _wide(w.k_norm)
        if traits.positional == "rotary":
            q, k = self._rotate(q), self._rotate(k)
        group = traits.n_heads // traits.n_kv_heads
        k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * traits.attn_scale
        if traits.attn_soft_cap is not None:
            scores = traits.attn_soft_cap * (scores / traits.attn_soft_cap).tanh()
        visible, window = self.visible, traits.window_of(layer)
        if window is not None:
            visible = visible & (self.distance < window)
        scores = self._site("attn_scores", layer, scores.masked_fill(~visible, MASKED))
        pattern = self._site("pattern", layer, scores.softmax(-1))
        z = self._site("z", layer, torch.einsum("bhqk,bkhd->bqhd", pattern, v))
        result = self._site("result", layer, torch.einsum("bphd,hdm->bphm", z, _wide(w.W_O)))
        out = result.sum(2)
        return out if w.b_O is None else out + _wide(w.b_O)

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        w, act = self.weights.layers[layer], _ACTIVATIONS[self.traits.act_fn]
        x = self._site("mlp_in", layer, x)
        linear = _affine("bpm,mn->bpn", x, w.W_in, w.b_in)
        if self.traits.gated_mlp:
            pre = self._site("mlp_pre", layer, _affine("bpm,mn->bpn", x, w.W_gate, w.b_gate))
            post = act(pre) * self._site("mlp_pre_linear", layer, linear)
        else:
            post = act(self._site("mlp_pre", layer, linear))
        if w.b_post is not None:
            post = post + _wide(w.b_post)
        return _affine("bpn,nm->bpm", self._site("mlp_post", layer, post), w.W_out, w.b_out)

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        if self.traits.norm is None:
            return x
        if self.traits.norm == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        x = self._rms(x)
        if norm is None:
            return x
        x = x * (_wide(norm.w) + self.traits.norm_plus_one)
        return x if norm.b is None else x + _wide(norm.b)

    def _rms(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + self.traits.norm_eps).sqrt()

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotary positions, first half of the rotated part paired with the second."""
        n = self.traits.rotary_dim
        half = torch.arange(0, n, 2, dtype=torch.float64)
        angle = self.positions[..., None].double() / self.theta ** (half / n)
        cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
        a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().double()


def _affine(equation: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.einsum(equation, x, _wide(weight))
    return out if bias is None else out + _wide(bias)
