"""A model as a stack of blocks, and the check that it is the model's own function."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import InterpError
from interp.kernels.readout import (
    VocabularySummary,
    read_tokens,
    summarise_vocabulary,
    vocabulary_kernel_runs,
)
from interp.models.blocks.block import Block
from interp.models.blocks.geometry import Geometry, find_positions, find_visible
from interp.models.blocks.layers import ACTIVATIONS, apply_stored_norm, norm_of
from interp.models.model import Model

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""Largest difference from the model's own logits, as a share of their size."""
_HALF_PRECISION = 0.1


class UnsupportedError(InterpError):
    """These block functions do not cover a model; the message says what of it."""


class Stack:
    """Embedding, blocks and unembedding of a model, on views of its weights."""

    def __init__(self, model: Model) -> None:
        reason = _reason_against(model)
        if reason:
            raise UnsupportedError(reason)
        self.model = model
        self.traits = model.traits
        self.weights = model.weights
        self.blocks = tuple(
            Block(layer, weights, self.traits) for layer, weights in enumerate(self.weights.layers)
        )

    def embed(
        self, tokens: Int[Tensor, "prompt pos"], geometry: Geometry, start: int = 0
    ) -> tuple[Float[Tensor, "prompt n d_model"], Float[Tensor, "prompt n d_model"]]:
        """Token embeddings from column ``start`` on, and the residual stream that they begin."""
        scale = torch.tensor(self.traits.embed_scale).to(self.weights.W_E.dtype)
        embedded = self.weights.W_E[tokens[:, start:]]
        embedded = embedded if self.traits.embed_scale == 1.0 else embedded * scale.to(embedded.device)
        if self.weights.W_pos is None:
            return embedded, embedded
        return embedded, embedded + self.weights.W_pos[geometry.positions[:, start:]]

    def geometry(
        self, tokens: Int[Tensor, "prompt pos"], mask: Bool[Tensor, "prompt pos"] | None
    ) -> Geometry:
        """Positions, visibility and rotation of a batch of prompts."""
        padded = mask is not None and not bool(mask.all())
        real = mask.to(tokens.device).bool() if mask is not None and padded else None
        if real is None:
            real = torch.ones(1, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        positions = find_positions(real)
        visible = find_visible(real, {block.window for block in self.blocks})
        rotary = self.model.family.rotary
        if rotary is None or self.traits.positional != "rotary":
            return Geometry(positions, visible, real=real if padded else None)
        like = torch.empty(0, dtype=self.model.dtype, device=tokens.device)
        cos, sin = rotary(self.model.module, like, positions)
        return Geometry(positions, visible, cos, sin, real if padded else None)

    def unembed(
        self,
        resid: Float[Tensor, "row k d_model"],
        vocab: Int[Tensor, "prompt c"] | None = None,
        prompts: Int[Tensor, " row"] | None = None,
    ) -> Float[Tensor, "row k c"]:
        """Logits of final residual streams: of the whole vocabulary, or of each row's own tokens.

        Row i reads the tokens ``vocab[prompts[i]]``, or ``vocab[i]`` without ``prompts``.
        """
        W_U, b_U, cap = self.weights.W_U, self.weights.b_U, self.traits.final_soft_cap
        if vocab is not None:
            norm = norm_of(self.weights.ln_final, self.traits)
            return read_tokens(resid, W_U, vocab, prompts, b_U, norm, cap)
        x = apply_stored_norm(resid, self.weights.ln_final, self.traits)
        logits = (x.flatten(0, 1) @ W_U).view(*x.shape[:2], -1)
        logits = logits if b_U is None else logits + b_U
        return logits if cap is None else (logits / cap).tanh() * cap

    def summarise(
        self,
        resid: Float[Tensor, "row k d_model"],
        vocab: Int[Tensor, "prompt c"],
        prompts: Int[Tensor, " row"],
        reference: Float[Tensor, "prompt k d_vocab"] | None = None,
        others: bool = False,
    ) -> VocabularySummary:
        """Statistics of the logits of final residual streams over the whole vocabulary.

        See :func:`~interp.kernels.readout.summarise_vocabulary`; on a GPU no logits are stored.
        """
        norm = norm_of(self.weights.ln_final, self.traits)
        W_U, b_U, cap = self.weights.W_U, self.weights.b_U, self.traits.final_soft_cap
        return summarise_vocabulary(resid, W_U, vocab, prompts, b_U, norm, cap, reference, others)

    def summary_runs(self, resid: Float[Tensor, "row k d_model"]) -> bool:
        """Whether :meth:`summarise` would store no logits."""
        norm = norm_of(self.weights.ln_final, self.traits)
        return vocabulary_kernel_runs(resid, self.weights.W_U, self.weights.b_U, norm)


def stack_of(model: Model) -> Stack:
    """The model's blocks as functions, checked against its own logits.

    The check runs once, and again when a module or parameter of the model is exchanged. Raises
    :class:`UnsupportedError` for a model they do not cover, that other hooks or training mode would
    change, or whose own logits they do not give.
    """
    modules = tuple(model.module.modules())
    busy = _busy(model, modules)
    if busy:
        raise UnsupportedError(busy)
    stack = Stack(model)
    parts = hash(tuple(id(part) for module in modules for part in (module, *module._parameters.values())))
    if model.blocks_check is None or model.blocks_check[0] != parts:
        model.blocks_check = (parts, _compare(stack))
    error = model.blocks_check[1]
    if error:
        raise UnsupportedError(error)
    return stack


def _reason_against(model: Model) -> str:
    traits = model.traits
    if model.is_hooked_transformer:
        return "a HookedTransformer runs through its own hooks"
    if traits.d_mlp and traits.act_fn not in ACTIVATIONS:
        return f"the activation function {traits.act_fn!r} is not known"
    if traits.positional == "rotary" and model.family.rotary is None:
        return f"the rotary embedding of family {traits.family!r} is not known"
    return ""


def _busy(model: Model, modules: Iterable[nn.Module]) -> str:
    """Why a run through the module would differ now from one through its weights alone."""
    if model.active_edits:
        return "other interventions are active"
    if model.module.training:
        return "the model is in training mode"
    points = {id(point) for point in model.hook_points.values()}
    for module in modules:
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # TransformerLens and transformers keep hooks of their own on modules, which change nothing
        if any(id(module) in points or not _is_wiring(hook) for hook in hooks):
            return "the model has forward hooks of someone else's"
    return ""


def _is_wiring(hook: object) -> bool:
    home = str(getattr(hook, "__module__", ""))
    return home.startswith(("transformer_lens.", "transformers.utils.output_capturing"))


@torch.no_grad()
def _compare(stack: Stack) -> str:
    """Empty if the stack's logits are the model's, else how they differ."""
    from interp.models.blocks.trace import run_trace

    model, traits = stack.model, stack.traits
    n = min(7, traits.n_ctx)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, traits.d_vocab, (2, n), generator=draw).to(model.device)
    mask = torch.ones(2, n, dtype=torch.bool, device=model.device)
    mask[1, : n // 3] = False
    theirs = model(tokens, mask)
    ours = stack.unembed(run_trace(stack, tokens, mask).stream[-1])
    difference = float((theirs - ours)[mask].abs().max())
    size = float(theirs[mask].abs().max())
    if difference <= _TOLERANCE.get(model.dtype, _HALF_PRECISION) * max(size, 1.0):
        return ""
    return (
        f"its logits and those of the block functions differ by {difference:.2g} (their size is {size:.2g})"
    )
