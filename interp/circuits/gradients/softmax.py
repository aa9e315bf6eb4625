"""The QK fix at edges: a query or key with one writer replaced in its input, through the exact softmax.

Only what comes after the attention pattern is then taken to first order (Kramár et al. 2024, arXiv
2403.00745, section 3.1.1, where a whole query or key is replaced). Scores are taken in fp64, for what
is kept of them is their difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.gradients.blockwise import Before
from interp.circuits.gradients.totals import EdgeTotals
from interp.models.blocks import Stack
from interp.models.blocks.block import Block as LayerBlock
from interp.models.norms import apply_norm, widen

Scores = Float[Tensor, "_writer head dest src"]
Change = Float[Tensor, "writer pos d_model"]


class EdgeSoftmaxFix:
    """Scores edges into queries and keys by way of the gradient at the pattern."""

    def __init__(self, totals: EdgeTotals, stack: Stack, before: Before, first: int) -> None:
        self._totals = totals
        self._stack = stack
        self._before = before
        self._first = first

    def take(
        self,
        layer: int,
        gradient: Float[Tensor, "prompt head dest src"],
        x: Float[Tensor, "prompt pos d_model"],
    ) -> None:
        """Score all edges into the queries and keys of a layer; ``x`` is the residual stream before it."""
        totals = self._totals
        reach = int(totals.graph.reach[totals.readers.first_of("q", layer)])
        real = (totals.places >= 0)[:, None, :, None]
        gradient = torch.where(real, gradient, 0.0).double()
        everywhere = slice(0, x.shape[1])
        for prompt in range(len(x)):
            one = slice(prompt, prompt + 1)
            attention = self._at(layer, prompt, x[prompt])
            at_once = attention.n_within(totals.size)
            for start in range(0, reach, at_once):
                stop = min(start + at_once, reach)
                outputs = totals.writers.outputs(start, stop, one, everywhere)[:, 0]
                change = attention.change_normed(outputs)
                by_query = attention.effects_by_query(change, gradient[prompt])
                by_query = totals.by_place(by_query.permute(1, 0, 2)[None], one, everywhere)
                totals.add(totals.readers.first_of("q", layer), start, by_query, one)
                by_key = [
                    attention.effects_of_keys(change, gradient[prompt], totals.places[prompt] == place)
                    for place in range(totals.graph.n_positions)
                ]
                found = torch.stack(by_key, -1).transpose(0, 1)[None]
                totals.add(totals.readers.first_of("k", layer), start, found, one)

    def _at(self, layer: int, prompt: int, x: Float[Tensor, "pos d_model"]) -> _Attention:
        geometry, block = self._before.geometry, self._stack.blocks[layer]
        cos, sin, visible = (
            None if table is None else table[prompt % len(table), self._first :][None]
            for table in (geometry.cos, geometry.sin, geometry.visible[block.window])
        )
        assert visible is not None
        return _Attention(block, x, self._before.keys[layer][prompt][None].double(), visible[None], cos, sin)


@dataclass(frozen=True)
class _Attention:
    """Attention of one layer and prompt at the base run, at the columns that can change."""

    block: LayerBlock
    x: Float[Tensor, "pos d_model"]
    keys_before: Float[Tensor, "1 kv_head before d_head"]
    """Of earlier columns, as they meet queries."""
    visible: Bool[Tensor, "1 1 dest src"]
    cos: Float[Tensor, "1 pos rotary"] | None
    sin: Float[Tensor, "1 pos rotary"] | None

    def n_within(self, size: int) -> int:
        """How many writers at once need about ``size`` numbers."""
        traits, (n_dest, n_src) = self.block.traits, self.visible.shape[2:]
        heads = n_dest * traits.n_heads * (10 * n_src + 6 * traits.d_head)
        return max(1, size // (4 * n_dest * traits.d_model + heads))

    @cached_property
    def _normed(self) -> Float[Tensor, "pos d_model"]:
        return apply_norm(self.x, self.block.weights.ln1, self.block.traits)

    def change_normed(self, outputs: Change) -> Change:
        """By how much the normalised stream changes where each writer's output does."""
        return apply_norm(self.x + outputs, self.block.weights.ln1, self.block.traits) - self._normed

    def _queries(self, change: Change | None) -> Float[Tensor, "_writer pos head d_head"]:
        q = self.block.queries(self._normed.to(self.x.dtype)).double()[None]
        if change is not None:
            q = q + (change @ widen(self.block.queries.weight)).double()
        return self.block.turn_queries(q.unflatten(-1, (self.block.traits.n_heads, -1)), self.cos, self.sin)

    def _keys(self, change: Change | None) -> Float[Tensor, "_writer kv_head pos d_head"]:
        k = self.block.keys(self._normed.to(self.x.dtype)).double()[None]
        if change is not None:
            k = k + (change @ widen(self.block.keys.weight)).double()
        k = self.block.turn_keys(k.unflatten(-1, (self.block.traits.n_kv_heads, -1)), self.cos, self.sin)
        return k.transpose(1, 2)

    def _score(self, q: Tensor, keys: Tensor, visible: Tensor) -> Scores:
        group = self.block.traits.group_size
        grouped = q.transpose(1, 2).reshape(len(q), keys.shape[1], group * q.shape[1], -1)
        return self.block.score(grouped @ keys.transpose(-1, -2), visible, group)

    @cached_property
    def _own_keys(self) -> Float[Tensor, "1 kv_head src d_head"]:
        return torch.cat([self.keys_before, self._keys(None)], 2)

    @cached_property
    def _scores(self) -> Scores:
        return self._score(self._queries(None), self._own_keys, self.visible)

    @cached_property
    def _pattern(self) -> Scores:
        return self._scores.softmax(-1)

    def effects_by_query(
        self, change: Change, gradient: Float[Tensor, "head dest src"]
    ) -> Float[Tensor, "writer head dest"]:
        """Effects of queries that read the change, of each query on its own."""
        moved = self._score(self._queries(change), self._own_keys, self.visible).softmax(-1)
        return torch.einsum("whds,hds->whd", moved - self._pattern, gradient)

    def effects_of_keys(
        self, change: Change, gradient: Float[Tensor, "head dest src"], where: Bool[Tensor, " pos"]
    ) -> Float[Tensor, "writer kv_head"]:
        """Effects of keys that read the change at some columns, all of them together."""
        n_before = self.keys_before.shape[2]
        new = self._score(self._queries(None), self._keys(change), self.visible[..., n_before:])
        scores = self._scores.repeat(len(change), 1, 1, 1)
        scores[..., n_before:] = torch.where(where, new, scores[..., n_before:])
        effects = torch.einsum("whds,hds->wh", scores.softmax(-1) - self._pattern, gradient)
        return effects.unflatten(1, (self.block.traits.n_kv_heads, -1)).sum(-1)
