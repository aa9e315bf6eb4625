"""Attention of rows in flight: their own keys and values, and before them those of the base run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.kernels.prefix_attention import attend_prefix, prefix_kernel_runs
from interp.models.blocks.block import Block
from interp.models.blocks.formation import Formation, join_tokens, split_tokens
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
    keys = [seen("k", block.layer, wave, k, watcher) for wave, k in zip(waves, keys, strict=True)]
    values = [seen("v", block.layer, wave, v, watcher) for wave, v in zip(waves, values, strict=True)]
    if _kernel_runs(block, waves, keys[0], watcher):
        keys = _turn_all(block.turn_keys, waves, keys, base.geometry)
    else:
        keys = [
            block.turn_keys(k, *_rotation(wave, base.geometry)) for wave, k in zip(waves, keys, strict=True)
        ]
    met = [(k.transpose(1, 2), v.transpose(1, 2)) for k, v in zip(keys, values, strict=True)]
    for wave, (k, v) in zip(waves, met, strict=True):
        seen("keys", block.layer, wave, k, watcher)
        seen("values", block.layer, wave, v, watcher)
    return met


def mix_waves(
    block: Block,
    waves: Sequence[Wave],
    queries: Sequence[Float[Tensor, "_row _pos head d_head"]],
    met: Sequence[Met],
    base: KeyValues,
    watcher: Watcher = BLIND,
) -> list[Float[Tensor, "_row _pos head d_head"]]:
    """``z`` of every wave's heads, from queries as the model projects them at the wave's present columns.

    One launch of a kernel for all waves, on a GPU and where nobody asks for scores or pattern.
    """
    queries = [seen("q", block.layer, wave, q, watcher) for wave, q in zip(waves, queries, strict=True)]
    if _kernel_runs(block, waves, queries[0], watcher):
        mixed = _mix_in_one(block, waves, queries, met, base, watcher)
    else:
        mixed = [
            _mix_values(block, wave, q, *kv, base, watcher)
            for wave, q, kv in zip(waves, queries, met, strict=True)
        ]
    return [seen("z", block.layer, wave, z, watcher) for wave, z in zip(waves, mixed, strict=True)]


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
    return mix_waves(block, [wave], [q], meet_waves(block, [wave], [k], [v], base), base)[0]


def _kernel_runs(block: Block, waves: Sequence[Wave], like: Tensor, watcher: Watcher) -> bool:
    """Whether these waves' attention is one launch: nobody looks inside it, and a kernel covers it."""
    if any(watcher.wants(inside, block.layer) for inside in ("attn_scores", "pattern")):
        return False
    if not any(wave.n_rows for wave in waves):
        return False
    traits = block.traits
    return prefix_kernel_runs(like, traits.n_heads, traits.n_kv_heads)


def _turn_all(
    turn: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
    waves: Sequence[Wave],
    parts: Sequence[Float[Tensor, "_row _pos _head d_head"]],
    geometry: Geometry,
) -> list[Float[Tensor, "_row _pos _head d_head"]]:
    """Queries or keys of all waves as they meet each other, turned in one go."""
    turned = turn(join_tokens(parts)[None], *Formation.of(waves).turns(waves, geometry))[0]
    return split_tokens(turned, [(part.shape[0], part.shape[1]) for part in parts])


def _mix_in_one(
    block: Block,
    waves: Sequence[Wave],
    queries: Sequence[Tensor],
    met: Sequence[Met],
    base: KeyValues,
    watcher: Watcher,
) -> list[Tensor]:
    """Outputs of every head before W_O, by one launch for all waves."""
    queries = _turn_all(block.turn_queries, waves, queries, base.geometry)
    for wave, q in zip(waves, queries, strict=True):
        seen("queries", block.layer, wave, q.transpose(1, 2), watcher)
    formation, traits = Formation.of(waves), block.traits
    k, v = (join_tokens([kv[i].transpose(1, 2) for kv in met]) for i in (0, 1))
    if any(wave.start for wave in waves):
        before = (base.keys[block.layer], base.values[block.layer])
    else:
        real = base.geometry.real
        nothing = k.new_empty(1 if real is None else len(real), k.shape[1], 0, k.shape[2])
        before = (nothing, nothing)
    z = attend_prefix(
        join_tokens(queries),
        k,
        v,
        *before,
        formation.rows,
        traits.attn_scale,
        traits.attn_soft_cap,
        block.window,
        base.geometry.real,
        formation.plan(base.geometry, block.window),
    )
    return split_tokens(z, [(q.shape[0], q.shape[1]) for q in queries])


def _mix_values(
    block: Block, wave: Wave, q: Tensor, k: Tensor, v: Tensor, base: KeyValues, watcher: Watcher
) -> Float[Tensor, "row pos head d_head"]:
    """Outputs of every head before W_O."""
    layer, n_rows, n_dest = block.layer, wave.n_rows, q.shape[1]
    n_kv, group = block.traits.n_kv_heads, block.traits.group_size
    q = block.turn_queries(q, *_rotation(wave, base.geometry))
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
    return z.view(n_rows, n_kv * group, n_dest, -1).transpose(1, 2)


class _Before:
    """The base run's keys and values before a wave begins, which are never copied for its rows."""

    def __init__(self, wave: Wave, base: KeyValues, layer: int) -> None:
        self.n = wave.start
        if wave.start:
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
