"""Attention of rows in flight: their own keys and values, and before them those of the base run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.blocks.block import Block
from interp.models.blocks.geometry import Geometry
from interp.models.blocks.waves import BLIND, KeyValues, Watcher, Wave

Met = tuple[Float[Tensor, "row kv_head src d_head"], Float[Tensor, "row kv_head src d_head"]]
"""A wave's own keys and values, as its queries meet them."""


def meet_waves(
    block: Block,
    waves: Sequence[Wave],
    keys: Sequence[Float[Tensor, "_row _src kv_head d_head"]],
    values: Sequence[Float[Tensor, "_row _src kv_head d_head"]],
    base: KeyValues,
    watcher: Watcher = BLIND,
) -> list[Met]:
    """Every wave's own keys and values from what the model projects at all its columns."""
    return [_meet(block, *parts, base, watcher) for parts in zip(waves, keys, values, strict=True)]


def mix_waves(
    block: Block,
    waves: Sequence[Wave],
    queries: Sequence[Float[Tensor, "_row _pos head d_head"]],
    met: Sequence[Met],
    base: KeyValues,
    watcher: Watcher = BLIND,
) -> list[Float[Tensor, "_row _pos head d_head"]]:
    """``z`` of every wave's heads, from queries as the model projects them at the wave's present columns."""
    return [
        _mix_values(block, wave, q, *kv, base, watcher)
        for wave, q, kv in zip(waves, queries, met, strict=True)
    ]


def mix_heads(
    block: Block,
    wave: Wave,
    q: Float[Tensor, "row pos head d_head"],
    k: Float[Tensor, "row pos kv_head d_head"],
    v: Float[Tensor, "row pos kv_head d_head"],
    base: KeyValues,
) -> Float[Tensor, "row pos head d_head"]:
    """``z`` of every head from queries, keys and values given at a wave's columns, raw as the model projects them.

    Of the wave only the rows and columns matter; before its first column keys and values are the base run's.
    """
    return _mix_values(block, wave, q, *_meet(block, wave, k, v, base, BLIND), base, BLIND)


def _meet(
    block: Block, wave: Wave, k: Tensor, v: Tensor, base: KeyValues, watcher: Watcher
) -> tuple[Tensor, Tensor]:
    """A wave's own keys and values [row, kv_head, src, d_head], as its queries meet them."""
    k, v = seen("k", block.layer, wave, k, watcher), seen("v", block.layer, wave, v, watcher)
    cos, sin = _rotation(wave, base.geometry)
    k, v = (x.transpose(1, 2) for x in (block.turn_keys(k, cos, sin), v))
    seen("keys", block.layer, wave, k, watcher)
    seen("values", block.layer, wave, v, watcher)
    return k, v


def _mix_values(
    block: Block, wave: Wave, q: Tensor, k: Tensor, v: Tensor, base: KeyValues, watcher: Watcher
) -> Float[Tensor, "row pos head d_head"]:
    """Outputs of every head before W_O."""
    layer, n_rows, n_dest = block.layer, wave.n_rows, q.shape[1]
    n_kv, group = block.traits.n_kv_heads, block.traits.group_size
    q = block.turn_queries(seen("q", layer, wave, q, watcher), *_rotation(wave, base.geometry))
    q = q.transpose(1, 2)
    seen("queries", layer, wave, q, watcher)
    q = q.reshape(n_rows, n_kv, group * n_dest, q.shape[-1])
    products = q @ k.transpose(-1, -2)
    before = _Before(wave, base, layer)
    if before.n:
        products = torch.cat([before.products(q), products], dim=-1)
    visible = wave.take(base.geometry.visible[block.window])[:, None, :, : wave.stop]
    scores = seen("attn_scores", layer, wave, block.score(products, visible, group), watcher)
    pattern = seen("pattern", layer, wave, block.weigh(scores), watcher)
    pattern = pattern.reshape(n_rows, n_kv, group * n_dest, -1)
    z = pattern[..., before.n :] @ v
    if before.n:
        z = z + before.mix(pattern[..., : before.n])
    z = z.view(n_rows, n_kv * group, n_dest, -1).transpose(1, 2)
    return seen("z", layer, wave, z, watcher)


class _Before:
    """The base run's keys and values before a wave begins, which are never copied for its rows."""

    def __init__(self, wave: Wave, base: KeyValues, layer: int) -> None:
        self.n = wave.start
        if wave.start:
            assert wave.places is not None
            self.places = wave.places
            present = wave.prompts[wave.places.rows[:, 0]]
            tables = (base.keys[layer], base.values[layer])
            every = len(present) == len(tables[0])
            self.keys, self.values = (
                table[:, :, : self.n] if every else table[:, :, : self.n].index_select(0, present)
                for table in tables
            )

    def products(self, q: Float[Tensor, "row kv_head n d_head"]) -> Float[Tensor, "row kv_head n before"]:
        """Queries times these keys."""
        grouped = self.places.group(q) @ self.keys.transpose(-1, -2)
        return self.places.ungroup(grouped, q.shape[2])

    def mix(self, pattern: Float[Tensor, "row kv_head n before"]) -> Float[Tensor, "row kv_head n d_head"]:
        """These values, weighted."""
        grouped = self.places.group(pattern) @ self.values
        return self.places.ungroup(grouped, pattern.shape[2])


def _rotation(wave: Wave, geometry: Geometry) -> tuple[Tensor | None, Tensor | None]:
    if geometry.cos is None or geometry.sin is None:
        return None, None
    return wave.take(geometry.cos), wave.take(geometry.sin)


def seen(component: str, layer: int, wave: Wave, value: Tensor, watcher: Watcher) -> Tensor:
    """What to go on with after the watcher saw an activation, if it wants to."""
    return watcher.see(component, layer, wave, value) if watcher.wants(component, layer) else value
