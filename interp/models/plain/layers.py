"""The parts of a plain transformer: embeddings, norms, attention, MLP, block.

Parameters have the shapes and names of TransformerLens' ``HookedTransformer`` (``W_Q``
[head, d_model, d_head], ``W_in`` [d_model, d_mlp], ...), so a state dict moves between the two
unchanged. Hook points have the names of its ``TransformerBridge``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint
from transformers import Cache

from interp.models.plain.config import PlainConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "identity": lambda x: x,
}


class Hooked(nn.Module):
    """A module that carries hook points, made by name."""

    def __init__(self, *hooks: str) -> None:
        super().__init__()
        for name in hooks:
            self.add_module(name, HookPoint())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Embed(Hooked):
    """A table of vectors: tokens (``W_E``) or positions (``W_pos``)."""

    def __init__(self, weight_name: str, rows: int, d_model: int) -> None:
        super().__init__("hook_out")
        self.weight_name = weight_name
        self.register_parameter(weight_name, nn.Parameter(torch.empty(rows, d_model)))

    @property
    def weight(self) -> Float[Tensor, "row d_model"]:
        """The table, whatever its name."""
        return getattr(self, self.weight_name)

    def forward(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.hook_out(self.weight[ids])


class Norm(Hooked):
    """LayerNorm, RMSNorm, or nothing but its hook points.

    ``hook_scale`` holds the divisor ``sqrt(mean(x^2) + eps)`` [batch, pos, 1].
    """

    def __init__(self, config: PlainConfig) -> None:
        super().__init__("hook_in", *(("hook_scale", "hook_normalized") if config.norm else ()), "hook_out")
        self.kind = config.norm
        self.eps = config.norm_eps
        if self.kind is not None:
            self.w = nn.Parameter(torch.empty(config.d_model))
        if self.kind == "layernorm":
            self.b = nn.Parameter(torch.empty(config.d_model))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        x = self.hook_in(x)
        if self.kind is None:
            # a node of its own, whose gradient is not that of the stream
            return self.hook_out(x.view_as(x))
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        x = self.hook_normalized(x / scale) * self.w
        return self.hook_out(x + self.b if self.kind == "layernorm" else x)


class Attention(Hooked):
    """Causal softmax attention, one explicit matrix a head."""

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__("hook_attn_scores", "hook_pattern", "hook_out")
        self.layer = layer
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        assert d_head is not None and config.attn_scale is not None, "PlainConfig resolves both"
        self.scale = config.attn_scale
        for name in "QKV":
            self.register_parameter(f"W_{name}", nn.Parameter(torch.empty(heads, d_model, d_head)))
            bias = nn.Parameter(torch.empty(heads, d_head)) if config.attn_bias else None
            self.register_parameter(f"b_{name}", bias)
            self.add_module(name.lower(), Hooked("hook_out"))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.register_parameter("b_O", nn.Parameter(torch.empty(d_model)) if config.attn_bias else None)
        self.o = Hooked("hook_in", "hook_out")

    def _project(
        self, x: Float[Tensor, "batch pos d_model"], name: str
    ) -> Float[Tensor, "batch pos head d_head"]:
        out = torch.einsum("bpm,hmd->bphd", x, getattr(self, f"W_{name}"))
        bias = getattr(self, f"b_{name}")
        return getattr(self, name.lower()).hook_out(out if bias is None else out + bias)

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        visible: Bool[Tensor, "#batch 1 pos total"],
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Attend from ``x`` to itself and to ``cache``, where ``visible`` allows."""
        q, k, v = (self._project(x, name) for name in "QKV")
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        scores = torch.einsum("bqhd,bhkd->bhqk", q, k) * self.scale
        # A finite floor, so that rows of pure padding are uniform instead of NaN.
        scores = self.hook_attn_scores(scores.masked_fill(~visible, torch.finfo(scores.dtype).min))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = self.o.hook_in(torch.einsum("bhqk,bhkd->bqhd", pattern, v))
        out = torch.einsum("bqhd,hdm->bqm", z, self.W_O)
        return self.hook_out(self.o.hook_out(out if self.b_O is None else out + self.b_O))


class MLP(Hooked):
    """One hidden layer, gated or not. Hooks: ``in.hook_out``, ``gate.hook_out``, ``out.hook_in``."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__("hook_out")
        self.act = _ACTIVATIONS[config.act]
        shapes = {"in": (config.d_model, config.d_mlp), "out": (config.d_mlp, config.d_model)}
        if config.gated_mlp:
            shapes["gate"] = shapes["in"]
        for name, (rows, columns) in shapes.items():
            self.register_parameter(f"W_{name}", nn.Parameter(torch.empty(rows, columns)))
            bias = nn.Parameter(torch.empty(columns)) if config.mlp_bias else None
            self.register_parameter(f"b_{name}", bias)
            # "in" is a keyword, so these are read with get_submodule.
            self.add_module(name, Hooked("hook_in" if name == "out" else "hook_out"))
        self.gated = config.gated_mlp

    def _project(self, x: Float[Tensor, "batch pos d_in"], name: str) -> Float[Tensor, "batch pos d_out"]:
        out = x @ getattr(self, f"W_{name}")
        bias = getattr(self, f"b_{name}")
        return out if bias is None else out + bias

    def _hook(self, name: str, value: Tensor) -> Tensor:
        return self.get_submodule(name)(value)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        linear = self._hook("in.hook_out", self._project(x, "in"))
        gate = self._hook("gate.hook_out", self._project(x, "gate")) if self.gated else None
        post = self.act(linear) if gate is None else self.act(gate) * linear
        return self.hook_out(self._project(self._hook("out.hook_in", post), "out"))


class Block(Hooked):
    """Attention, then the MLP if the model has one.

    As in a ``TransformerBridge``, an edit at ``ln1.hook_in`` or ``ln2.hook_in`` reaches what the
    norm feeds and not the residual stream; ``hook_in``, ``hook_resid_mid`` and ``hook_out`` are the
    stream itself.
    """

    def __init__(self, config: PlainConfig, layer: int) -> None:
        super().__init__("hook_in", *(("hook_resid_mid",) if config.d_mlp else ()), "hook_out")
        self.ln1 = Norm(config)
        self.attn = Attention(config, layer)
        self.has_mlp = config.d_mlp > 0
        if self.has_mlp:
            self.ln2 = Norm(config)
            self.mlp = MLP(config)

    def forward(
        self, resid: Float[Tensor, "batch pos d_model"], **attention: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        resid = self.hook_in(resid)
        resid = resid + self.attn(self.ln1(resid), **attention)
        if self.has_mlp:
            resid = self.hook_resid_mid(resid)
            resid = resid + self.mlp(self.ln2(resid))
        return self.hook_out(resid)


class Unembed(Hooked):
    """Logits: ``x @ W_U + b_U``; a tied model keeps no ``W_U`` and reads ``W_E`` transposed."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__("hook_in", "hook_out")
        tied = config.tie_word_embeddings
        self.register_parameter(
            "W_U", None if tied else nn.Parameter(torch.empty(config.d_model, config.vocab_size))
        )
        bias = nn.Parameter(torch.empty(config.vocab_size)) if config.unembed_bias else None
        self.register_parameter("b_U", bias)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], weight: Float[Tensor, "d_model d_vocab"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        logits = self.hook_in(x) @ weight
        return self.hook_out(logits if self.b_U is None else logits + self.b_U)
