"""Runs through the model's own module and hooks: for every model, under rules and beside interventions."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.gradients.passes import Move, TakeGradient
from interp.models.hooks import Edit, HookEdit, installed_edits
from interp.models.relevance import RelevanceRules, relevance_rules
from interp.models.sites import tap
from interp.patching.attribution.block import Block
from interp.patching.attribution.nodes import GradientRun, Node, OnTensor, reading_edits


class HookedPasses:
    """Passes whose backward goes through everything that autograd kept of the forward."""

    def __init__(self, block: Block, rules: str | RelevanceRules | None = None) -> None:
        self.block = block
        self.rules = rules

    def run(
        self, values: Collection[Node] = (), see: OnTensor | None = None, moved: Move | None = None
    ) -> Tensor:
        """See :class:`Passes`."""
        block = self.block
        with torch.no_grad(), installed_edits(block.model, self._edits(values, see, moved)):
            logits = block.model(block.tokens, block.mask, keep_columns=block.readout.columns)
        return block.readout.pick(logits, block.prompts)

    def start(
        self,
        nodes: Collection[Node],
        values: Collection[Node] = (),
        see: OnTensor | None = None,
        moved: Move | None = None,
        of_source: bool = False,
    ) -> _HookedRun:
        """See :class:`Passes`."""
        tokens = self.block.source.tokens[self.block.rows] if of_source else self.block.tokens
        with nullcontext() if self.rules is None else relevance_rules(self.block.model, self.rules):
            return _HookedRun(self.block, tokens, nodes, self._edits(values, see, moved))

    def _edits(self, values: Collection[Node], see: OnTensor | None, moved: Move | None) -> list[HookEdit]:
        block, edits = self.block, []
        if moved is not None:
            found = tap(block.model.family, block.model.traits, *moved[0])
            edits.append(HookEdit(found.write, self._add(moved[1]), found.stage))
        if see is not None:
            edits += reading_edits(block.model, values, lambda node, value: see(node, block.cut(node, value)))
        return edits

    def _add(self, change: Tensor) -> Edit:
        def edit(value: Tensor) -> Tensor:
            moved = value.clone()
            moved[:, self.block.first :] += change.to(value.dtype).reshape(
                -1, *moved[:, self.block.first :].shape[1:]
            )
            return moved

        return edit


class _HookedRun:
    """A forward under autograd, and the residual stream before each node's norm."""

    def __init__(self, block: Block, tokens: Tensor, nodes: Collection[Node], edits: list[HookEdit]) -> None:
        self._block = block
        self._stream: dict[Node, Tensor] = {}
        self._take: TakeGradient | None = None
        read = {found for node in nodes if (found := self._read_by(node)) is not None}
        self._run = GradientRun(
            block.model,
            tokens,
            block.mask,
            block.readout,
            block.prompts,
            nodes,
            None,
            self._give,
            [*edits, *reading_edits(block.model, read, self._keep)],
        )

    @property
    def picked(self) -> Tensor:
        return self._run.picked

    def scores(self) -> Float[Tensor, " prompt"]:
        return self._run.scores()

    def backward(self, scores: Float[Tensor, " prompt"], take: TakeGradient) -> None:
        self._take = take
        self._run.backward(scores)

    def _keep(self, node: Node, value: Tensor) -> None:
        self._stream[node] = self._block.cut(node, value)

    def _give(self, node: Node, gradient: Tensor) -> None:
        assert self._take is not None
        read = self._read_by(node)
        self._take(node, self._block.cut(node, gradient), None if read is None else self._stream[read])

    def _read_by(self, node: Node) -> Node | None:
        """The residual stream that the norm before a node reads."""
        name, layer = node
        if name == "resid_post":
            return None
        after_attention = name.startswith("mlp") and not self._block.model.traits.parallel_blocks
        return ("resid_mid" if after_attention else "resid_pre", layer)
