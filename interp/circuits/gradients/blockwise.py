"""Runs through block functions, whose backward runs each layer once more: one layer's graph at a time.

Of the forward only the residual stream before every layer is kept, at the columns that can change, and
of earlier columns the keys and values. A layer's gradients need nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.gradients.passes import Move, TakeGradient
from interp.circuits.gradients.writers import INPUT
from interp.models.blocks import Geometry, Stack, Wave, attend, run_mlp
from interp.patching.attribution.block import Block
from interp.patching.attribution.nodes import Node, OnTensor, frozen_parameters, score_under_autograd

Stream = Float[Tensor, "prompt pos d_model"]


@dataclass
class Before:
    """A run before the first column that can change, and where columns stand."""

    geometry: Geometry
    keys: list[Float[Tensor, "prompt kv_head pos d_head"]] = field(default_factory=list)
    values: list[Float[Tensor, "prompt kv_head pos d_head"]] = field(default_factory=list)
    final: Stream | None = None
    """The residual stream after the last layer."""


class _Watcher:
    """Hands over activations of a run as they are made, and moves one of them."""

    def __init__(self, nodes: Iterable[Node], see: OnTensor, moved: Move | None, skipped: int) -> None:
        self._nodes = frozenset(nodes)
        self._see = see
        self._moved = moved
        self._skipped = skipped
        """Columns of the run before the first that can change."""

    def wants(self, component: str, layer: int) -> bool:
        return (component, layer) in self._nodes or self._moves((component, layer))

    def _moves(self, node: Node) -> bool:
        return self._moved is not None and self._moved[0] == node

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        node = (component, layer)
        if self._moved is not None and self._moves(node):
            value = value.clone()
            value[:, self._skipped :] += self._moved[1].to(value.dtype)
        if node in self._nodes:
            self._see(node, value)
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        raise AssertionError("what heads add to the stream is made from z")


class BlockwisePasses:
    """Passes of one block of prompts. A run of the base prompts comes first, and others build on it."""

    def __init__(self, block: Block, stack: Stack) -> None:
        self.block = block
        self.stack = stack
        self.base: BlockwiseRun | None = None

    def run(
        self, values: Collection[Node] = (), see: OnTensor | None = None, moved: Move | None = None
    ) -> Tensor:
        """See :class:`Passes`."""
        return self.start((), values, see, moved).picked

    def start(
        self,
        nodes: Collection[Node],
        values: Collection[Node] = (),
        see: OnTensor | None = None,
        moved: Move | None = None,
        of_source: bool = False,
    ) -> BlockwiseRun:
        """See :class:`Passes`."""
        run = BlockwiseRun(self, nodes, values, see, moved, of_source)
        if self.base is None:
            self.base = run
        return run


class BlockwiseRun:
    """A forward without autograd, and a backward that makes its graph layer by layer.

    With an activation ``moved``, both begin at its layer.
    """

    def __init__(
        self,
        passes: BlockwisePasses,
        nodes: Collection[Node],
        values: Collection[Node],
        see: OnTensor | None,
        moved: Move | None,
        of_source: bool,
    ) -> None:
        block, base = passes.block, passes.base
        self._stack, self._block = passes.stack, block
        self._names = {name for name, _ in nodes} - {"resid_post"}
        self._moved = None if moved is None or moved[0] == INPUT else moved
        self._begins = 0 if self._moved is None else self._moved[0][1]
        whole = base is None or of_source
        tokens = block.source.tokens[block.rows] if of_source else block.tokens
        self.before: Before = (
            Before(passes.stack.geometry(tokens, block.mask)) if base is None else base.before
        )
        self.stream: list[Stream] = [] if whole or base is None else base.stream[: self._begins]
        """Before every layer, at the columns that can change."""
        with torch.no_grad():
            resid = self._first_stream(tokens, 0 if whole else block.first, moved, base)
            final = self._forward(resid, values, see, keep=base is None)
        self._read_logits(final, under_autograd=bool(nodes))

    def _first_stream(
        self, tokens: Tensor, start: int, moved: Move | None, base: BlockwiseRun | None
    ) -> Stream:
        if self._moved is not None:
            assert base is not None
            return base.stream[self._begins]
        _, resid = self._stack.embed(tokens, self.before.geometry, start)
        if moved is not None:
            resid[:, self._block.first - start :] += moved[1].to(resid.dtype)
        return resid

    def _forward(
        self, resid: Stream, values: Collection[Node], see: OnTensor | None, keep: bool
    ) -> Float[Tensor, "prompt column d_model"]:
        """The residual stream after the last layer, at all columns; ``keep`` keeps what other runs share."""
        block, n_columns = self._block, self._block.tokens.shape[1]
        skipped = resid.shape[1] - (n_columns - block.first)
        wave = Wave(0, block.first - skipped, n_columns, block.prompts, resid)
        nodes = set(values)
        if keep:
            nodes |= {(name, layer) for name in ("keys", "values") for layer in range(self.n_layers)}

        def hand_over(node: Node, value: Tensor) -> None:
            if node[0] in ("keys", "values"):
                kept = self.before.keys if node[0] == "keys" else self.before.values
                kept.append(value[:, :, :skipped].clone())
            elif see is not None:
                see(node, value[:, skipped:])

        watcher = _Watcher(nodes, hand_over, self._moved, skipped)
        for layer in range(self._begins, self.n_layers):
            # a view would hold on to the columns before it
            self.stream.append(wave.resid[:, skipped:].clone() if skipped else wave.resid)
            attend(self._stack, layer, [wave], self.before, watcher)
            run_mlp(self._stack, layer, [wave], watcher)
        if keep:
            self.before.final = wave.resid[:, :skipped].clone()
        if not skipped and block.first:
            assert self.before.final is not None
            return torch.cat([self.before.final, wave.resid], 1)
        return wave.resid

    @property
    def n_layers(self) -> int:
        return self._stack.traits.n_layers

    def _read_logits(self, final: Stream, under_autograd: bool) -> None:
        """Unembed what the metric reads."""
        block = self._block
        self._columns = block.readout.columns.to(final.device)
        self._final = final[:, self._columns].requires_grad_(under_autograd)
        with torch.enable_grad(), frozen_parameters(block.model):
            self.picked = block.readout.pick(self._stack.unembed(self._final), block.prompts)

    def scores(self) -> Float[Tensor, " prompt"]:
        """See :class:`Run`."""
        return score_under_autograd(self._block.readout, self.picked, self._block.prompts)

    def backward(
        self, scores: Float[Tensor, " prompt"], take: TakeGradient, arriving: list[Stream] | None = None
    ) -> None:
        """See :class:`Run`; ``arriving`` gets the gradient at the output of every layer, from the last on."""
        (at_final,) = torch.autograd.grad(scores, self._final, torch.ones_like(scores))
        first = self._block.first
        gradient = at_final.new_zeros(len(at_final), self._block.tokens.shape[1] - first, at_final.shape[2])
        counts = self._columns >= first
        gradient[:, self._columns[counts] - first] = at_final[:, counts]
        take(("resid_post", self.n_layers - 1), gradient, None)
        self.go_down(self.n_layers, gradient, take, arriving)

    def go_down(
        self, above: int, gradient: Stream, take: TakeGradient, arriving: list[Stream] | None = None
    ) -> None:
        """From the gradient at the input of layer ``above`` through all layers below it."""
        # no reader of its own layer comes after an MLP
        last = self._begins + (self._moved is not None and self._moved[0][0] != "z")
        for layer in reversed(range(last, above)):
            if arriving is not None:
                arriving.append(gradient)
            gradient = self._step_back(layer, gradient, take)

    def _step_back(self, layer: int, gradient: Stream, take: TakeGradient) -> Stream:
        """One layer run again, under autograd; returns the gradient at its input."""
        block, kept = self._block, dict[Node, Tensor]()
        nodes = {(name, layer) for name in (*self._names, "resid_mid")}
        x = self.stream[layer].detach().requires_grad_(True)
        wave = Wave(0, block.first, block.tokens.shape[1], block.prompts, x)
        with torch.enable_grad(), frozen_parameters(block.model):
            watcher = _Watcher(nodes, kept.__setitem__, self._moved, 0)
            attend(self._stack, layer, [wave], self.before, watcher)
            run_mlp(self._stack, layer, [wave], watcher)
        mid = kept.pop(("resid_mid", layer), x).detach()
        at_x, *found = torch.autograd.grad(wave.resid, [x, *kept.values()], gradient)
        for node, at_node in zip(kept, found, strict=True):
            take(node, at_node, mid if node[0].startswith("mlp") else x.detach())
        return at_x
