"""Carrying waves of rows through the model, block by block.

Linear maps, norms and MLPs see the tokens of all waves in one matrix; only attention goes wave by
wave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks.block import Block
from interp.models.blocks.geometry import Geometry
from interp.models.blocks.stack import Stack
from interp.models.blocks.waves import BLIND, KeyValues, Watcher, Wave

MLP_TOKENS = 128
"""Tokens that pass through an MLP at once on a CPU: its hidden layer then stays in the cache."""
MLP_TOKENS_ON_GPU = 16384


_MLP_PARTS = ("mlp_in", "mlp_pre", "mlp_pre_linear", "mlp_post", "mlp_o", "mlp_out")


def attend(
    stack: Stack,
    layer: int,
    waves: Sequence[Wave],
    base: KeyValues,
    watcher: Watcher = BLIND,
    narrow_to: Int[Tensor, "prompt k"] | None = None,
) -> None:
    """Run the attention of one layer on all waves, in place: from resid_pre to resid_mid.

    In a parallel block the residual stream is left alone and ``attn_out`` kept for :func:`run_mlp`.
    With ``narrow_to`` (in the last layer) only these columns of each prompt go on; the others are
    needed for their keys and values alone.
    """
    if not waves:
        return
    block = stack.blocks[layer]
    _watch_stream("resid_pre", layer, waves, watcher)
    x = block.normalise(_flat(waves), block.weights.ln1)
    names = ("keys", "values") if narrow_to is not None else ("queries", "keys", "values")
    projected = dict(zip(names, block.project(x, *names), strict=True))
    keys = _split_heads(projected["keys"], waves, stack.traits.n_kv_heads)
    values = _split_heads(projected["values"], waves, stack.traits.n_kv_heads)
    met = [_meet(block, wave, k, v, base, watcher) for wave, k, v in zip(waves, keys, values, strict=True)]
    if narrow_to is not None:
        projected["queries"] = block.queries(_narrow(waves, x, narrow_to))
    queries = _split_heads(projected["queries"], waves, stack.traits.n_heads)
    z = [
        _mix_values(block, wave, q, *kv, base, watcher)
        for wave, q, kv in zip(waves, queries, met, strict=True)
    ]
    flat = block.output(_join([part.flatten(0, 1).flatten(1) for part in z]))
    if watcher.wants("result", layer):
        for wave, heads, o in zip(waves, z, _views(flat, waves), strict=True):
            o.copy_(watcher.see_result(layer, wave, heads, o))
    _watch("o", layer, waves, _views(flat, waves), watcher)
    flat = block.finish_attention(flat)
    outs = _watch("attn_out", layer, waves, _views(flat, waves), watcher)
    for wave, out in zip(waves, outs, strict=True):
        if stack.traits.parallel_blocks:
            wave.attn_out = out
        else:
            wave.resid = wave.resid + out
    if not stack.traits.parallel_blocks and block.has_mlp:
        _watch_stream("resid_mid", layer, waves, watcher)


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


def run_mlp(stack: Stack, layer: int, waves: Sequence[Wave], watcher: Watcher = BLIND) -> None:
    """Run the MLP of one layer on all waves, in place: to resid_post."""
    if not waves:
        return
    block = stack.blocks[layer]
    outs: Sequence[Tensor | None] = [None] * len(waves)
    if block.has_mlp:
        x = block.normalise(_flat(waves), block.weights.ln2)
        if any(watcher.wants(part, layer) for part in _MLP_PARTS):
            flat = _watched_mlp(block, x, waves, watcher)
        else:
            flat = mlp_in_parts(block, x)
        outs = _watch("mlp_out", layer, waves, _views(block.finish_mlp(flat), waves), watcher)
    for wave, out in zip(waves, outs, strict=True):
        for part in (wave.attn_out, out):
            wave.resid = wave.resid if part is None else wave.resid + part
        wave.attn_out = None
    _watch_stream("resid_post", layer, waves, watcher)


def _meet(
    block: Block, wave: Wave, k: Tensor, v: Tensor, base: KeyValues, watcher: Watcher
) -> tuple[Tensor, Tensor]:
    """A wave's own keys and values [row, kv_head, src, d_head], as its queries meet them."""
    k, v = _seen("k", block.layer, wave, k, watcher), _seen("v", block.layer, wave, v, watcher)
    cos, sin = _rotation(wave, base.geometry)
    k, v = (x.transpose(1, 2) for x in (block.turn_keys(k, cos, sin), v))
    _seen("keys", block.layer, wave, k, watcher)
    _seen("values", block.layer, wave, v, watcher)
    return k, v


def _mix_values(
    block: Block, wave: Wave, q: Tensor, k: Tensor, v: Tensor, base: KeyValues, watcher: Watcher
) -> Float[Tensor, "row pos head d_head"]:
    """Outputs of every head before W_O."""
    layer, n_rows, n_dest = block.layer, wave.n_rows, q.shape[1]
    n_kv, group = block.traits.n_kv_heads, block.traits.group_size
    q = block.turn_queries(_seen("q", layer, wave, q, watcher), *_rotation(wave, base.geometry))
    q = q.transpose(1, 2)
    _seen("queries", layer, wave, q, watcher)
    q = q.reshape(n_rows, n_kv, group * n_dest, q.shape[-1])
    products = q @ k.transpose(-1, -2)
    before = _Before(wave, base, layer)
    if before.n:
        products = torch.cat([before.products(q), products], dim=-1)
    visible = wave.take(base.geometry.visible[block.window])[:, None, :, : wave.stop]
    scores = _seen("attn_scores", layer, wave, block.score(products, visible, group), watcher)
    pattern = _seen("pattern", layer, wave, block.weigh(scores), watcher)
    pattern = pattern.reshape(n_rows, n_kv, group * n_dest, -1)
    z = pattern[..., before.n :] @ v
    if before.n:
        z = z + before.mix(pattern[..., : before.n])
    z = z.view(n_rows, n_kv * group, n_dest, -1).transpose(1, 2)
    return _seen("z", layer, wave, z, watcher)


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


def _narrow(waves: Sequence[Wave], x: Tensor, columns: Tensor) -> Tensor:
    """Keep only some columns of every row; returns the same of the normalised ``x``."""
    kept = []
    for wave, part in zip(waves, _views(x, waves), strict=True):
        mine = columns[wave.prompts].clamp(wave.start, wave.stop - 1)
        if mine.shape[1] < wave.resid.shape[1]:
            at = (mine - wave.start)[:, :, None].expand(-1, -1, x.shape[-1])
            wave.resid, part = wave.resid.gather(1, at), part.gather(1, at)
            wave.columns = mine
        kept.append(part.reshape(-1, x.shape[-1]))
    return _join(kept)


def _watched_mlp(block: Block, x: Tensor, waves: Sequence[Wave], watcher: Watcher) -> Tensor:
    x = _join_views(_watch("mlp_in", block.layer, waves, _views(x, waves), watcher))
    linear = None
    if block.gate is None:
        pre = block.mlp_in(x)
    else:
        pre, linear = block.gate(x), block.mlp_in(x)
        linear = _join_views(_watch("mlp_pre_linear", block.layer, waves, _views(linear, waves), watcher))
    pre = _join_views(_watch("mlp_pre", block.layer, waves, _views(pre, waves), watcher))
    post = _views(block.mlp_hidden(pre, linear), waves)
    out = block.mlp_out(_join_views(_watch("mlp_post", block.layer, waves, post, watcher)))
    _watch("mlp_o", block.layer, waves, _views(out, waves), watcher)
    return out


def mlp_in_parts(block: Block, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """:meth:`Block.mlp` of many tokens, a few at a time, so that its hidden layer stays in the cache."""
    size = MLP_TOKENS if x.device.type == "cpu" else MLP_TOKENS_ON_GPU
    if len(x) <= size:
        return block.mlp(x)
    out = torch.empty_like(x)
    for part, into in zip(x.split(size), out.split(size), strict=True):
        block.mlp(part, into)
    return out


def _seen(component: str, layer: int, wave: Wave, value: Tensor, watcher: Watcher) -> Tensor:
    return watcher.see(component, layer, wave, value) if watcher.wants(component, layer) else value


def _watch(
    component: str, layer: int, waves: Sequence[Wave], values: Sequence[Tensor], watcher: Watcher
) -> Sequence[Tensor]:
    if not watcher.wants(component, layer):
        return values
    return [watcher.see(component, layer, wave, v) for wave, v in zip(waves, values, strict=True)]


def _watch_stream(component: str, layer: int, waves: Sequence[Wave], watcher: Watcher) -> None:
    if watcher.wants(component, layer):
        for wave in waves:
            wave.resid = watcher.see(component, layer, wave, wave.resid)


def _flat(waves: Sequence[Wave]) -> Float[Tensor, "n d_model"]:
    return _join([wave.resid.flatten(0, 1) for wave in waves])


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _join_views(parts: Sequence[Tensor]) -> Tensor:
    return _join([part.flatten(0, 1) for part in parts])


def _views(flat: Tensor, waves: Sequence[Wave]) -> list[Tensor]:
    """A matrix of all waves' tokens as one [row, pos, d] for each wave."""
    shapes = [wave.resid.shape[:2] for wave in waves]
    parts = flat.split([rows * n for rows, n in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def _split_heads(flat: Tensor, waves: Sequence[Wave], n_heads: int) -> list[Tensor]:
    return [part.unflatten(-1, (n_heads, -1)) for part in _views(flat, waves)]
