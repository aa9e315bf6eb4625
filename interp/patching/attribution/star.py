"""AtP*: attribution with the softmax recomputed, and with gradients dropped layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from interp.errors import PatchError
from interp.models.blocks import Stack, UnsupportedError, stack_of
from interp.models.hooks import Edit, HookEdit
from interp.patching.attribution.block import Block, Found
from interp.patching.attribution.change import Change
from interp.patching.attribution.methods import AttributionStar
from interp.patching.attribution.nodes import Node
from interp.patching.attribution.softmax import SoftmaxFix

FIXED = ("q", "k", "attn_scores")
"""Where the QK fix acts."""
_WITHOUT_LAYER = ("embed", "resid_pre", "resid_mid", "resid_post")
_BETWEEN = 1
"""After whoever listens to an output itself, before whoever listens to the stream that it is added to."""


def run_star(block: Block, method: AttributionStar) -> Found:
    """Two forwards, one backward, and with GradDrop one more backward a layer over the same graph."""
    return _Star(block, method).run()


class _Drop(torch.autograd.Function):
    """The identity, through which no gradient comes while ``is_dropped()``.

    No hook on the tensor, which another hook point may have seen as well.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, is_dropped: Callable[[], bool]) -> Tensor:
        ctx.is_dropped = is_dropped
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (torch.zeros_like(gradient) if ctx.is_dropped() else gradient), None


class _Star:
    def __init__(self, block: Block, method: AttributionStar) -> None:
        self.block = block
        self.method = method
        self.dropped: int | None = None
        fixed = {node for node in block.nodes if node[0] in FIXED} if method.qk_fix else set()
        self.fixed_layers = {layer for _, layer in fixed}
        self.plain = [node for node in block.nodes if node not in fixed]
        self.changes: dict[Node, Change] = {}
        self.fixed_changes: dict[Node, Tensor] = {}
        self.values: dict[Node, Tensor] = {}
        self.fixes: dict[int, SoftmaxFix] = {}
        self.stack = _stack(block) if fixed else None

    def run(self) -> Found:
        block, traits = self.block, self.block.model.traits
        replaced, source = block.run_source()
        extra = {(name, layer) for layer in self.fixed_layers for name in ("q", "k", "pattern")}

        def take_value(node: Node, value: Tensor) -> None:
            if node in self.plain:
                self.changes[node] = replaced.take_pair(node, value)
            elif node in block.parts:
                self.fixed_changes[node] = replaced.take_change(node, value)
            if node[1] in self.fixed_layers and node[0] in FIXED:
                self.values[node] = value

        nodes = tuple(dict.fromkeys((*block.nodes, *extra)))
        n_layers = traits.n_layers if self.method.grad_drop and traits.n_layers > 1 else 0
        drops = self._dropping_edits() if n_layers else ()
        run = block.run_gradient(nodes, self._take_gradient, take_value, edits=drops)
        base_score, source_score = block.compare_runs(source, run.picked)
        scores = run.scores()
        run.backward(scores, again=n_layers > 0)
        effects = block.out
        if not self.method.grad_drop:
            return Found(effects, base_score, source_score)
        magnitudes = block.zeros() if n_layers else [effect.abs() for effect in effects]
        for layer in range(n_layers):
            self.dropped, block.out = layer, block.zeros()
            run.backward(scores, again=layer < n_layers - 1)
            for total, sweep, found in zip(magnitudes, block.sweeps, block.out, strict=True):
                own = 0 if sweep.site.component in _WITHOUT_LAYER else 1
                total += found.abs() / (n_layers - own)
        return Found(effects, base_score, source_score, magnitudes)

    def _dropping_edits(self) -> Iterator[HookEdit]:
        """At what each layer adds to the residual stream, a gradient that is zero while it is dropped."""
        model = self.block.model
        hooks = model.family.hook_names(model.traits)
        for layer in range(model.traits.n_layers):
            for name in ("attn_out", "mlp_out"):
                if name in hooks:
                    yield HookEdit(hooks[name].format(layer=layer), self._dropping(layer), _BETWEEN)

    def _dropping(self, layer: int) -> Edit:
        def edit(value: Tensor) -> Tensor | None:
            return _Drop.apply(value, lambda: self.dropped == layer) if value.requires_grad else None

        return edit

    def _take_gradient(self, node: Node, gradient: Tensor) -> None:
        block = self.block
        if node in self.plain:
            block.add(node, self.changes[node], gradient)
        component, layer = node
        if component != "pattern" or layer not in self.fixed_layers:
            return
        fix = self._fix(layer)
        for part in block.parts.get(("q", layer), ()):
            block.put(part, fix.queries(part, self.fixed_changes["q", layer], gradient))
        for part in block.parts.get(("k", layer), ()):
            block.put(part, fix.keys(part, self.fixed_changes["k", layer], gradient))
        for part in block.parts.get(("attn_scores", layer), ()):
            own = self.values["attn_scores", layer]
            block.put(part, fix.scores(part, own, self.fixed_changes["attn_scores", layer], gradient))

    def _fix(self, layer: int) -> SoftmaxFix:
        if layer not in self.fixes:
            assert self.stack is not None
            geometry = self.stack.geometry(self.block.tokens, self.block.mask)
            q, k = self.values["q", layer], self.values["k", layer]
            self.fixes[layer] = SoftmaxFix(self.stack.blocks[layer], geometry, q, k)
        return self.fixes[layer]


def _stack(block: Block) -> Stack:
    try:
        return stack_of(block.model)
    except UnsupportedError as error:
        raise PatchError(
            f"attribution* recomputes the softmax at q, k and attn_scores by block functions, which do not cover "
            f"{block.model.name!r}: {error}. Leave these sites out, or take AttributionStar(qk_fix=False)."
        ) from error
