"""Rows in flight: many altered runs of a few prompts, carried through the model block by block.

A row is one prompt of a base run with something changed. Attention is causal, so nothing changes
before the first changed column: a row holds the residual stream from there on and attends to the
base run's keys and values before. Rows of one first column form a rectangular :class:`Wave`. Linear
maps, norms and MLPs see the tokens of all waves in one matrix; only attention goes wave by wave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.models.blocks.block import Block
from interp.models.blocks.geometry import Geometry, take_columns
from interp.models.blocks.stack import Stack

MLP_TOKENS = 128
"""Tokens that pass through an MLP at once on a CPU: its hidden layer then stays in the cache."""
MLP_TOKENS_ON_GPU = 16384


@dataclass(frozen=True)
class Places:
    """Rows by their prompts, so that each prompt's rows meet its keys in one product."""

    rows: Int[Tensor, "prompt slot"]
    """The rows of each prompt that has any, filled up with row 0."""
    prompt: Int[Tensor, " row"]
    slot: Int[Tensor, " row"]
    """Where each row stands among those of its prompt."""
    in_turn: bool
    """Whether the prompts take turns: first row of each, second row of each ..."""

    @classmethod
    def of(cls, prompts: Int[Tensor, " row"]) -> Places:
        """From the prompt of each row."""
        row = torch.arange(len(prompts), device=prompts.device)
        n = int(prompts.max()) + 1
        if len(row) % n == 0 and torch.equal(prompts, row % n):
            return cls(row.view(-1, n).T, prompts, row // n, True)
        present, own = prompts.unique(return_inverse=True)
        one = torch.nn.functional.one_hot(own, len(present))
        slot = (one.cumsum(0) - 1).gather(1, own[:, None])[:, 0]
        rows = torch.zeros(len(present), int(slot.max()) + 1, dtype=torch.long, device=prompts.device)
        rows[own, slot] = row
        return cls(rows, own, slot, False)

    def group(self, x: Float[Tensor, "row kv_head n d"]) -> Float[Tensor, "prompt kv_head m d"]:
        """The rows of each prompt side by side."""
        if self.in_turn:
            turns = x.unflatten(0, (self.rows.shape[1], self.rows.shape[0]))
            return turns.permute(1, 2, 0, 3, 4).flatten(2, 3)
        heads = torch.arange(x.shape[1], device=x.device)
        return x[self.rows[:, None, :], heads[None, :, None]].flatten(2, 3)

    def ungroup(self, x: Float[Tensor, "prompt kv_head m d"], n: int) -> Float[Tensor, "row kv_head n d"]:
        """Back to one row after another, ``n`` entries each."""
        x = x.unflatten(2, (-1, n))
        if self.in_turn:
            return x.permute(2, 0, 1, 3, 4).flatten(0, 1)
        return x[self.prompt, :, self.slot]


@dataclass
class Wave:
    """Rows that begin at one column and end before another."""

    index: int
    start: int
    stop: int
    prompts: Int[Tensor, " row"]
    """The prompt of the base run that each row changes."""
    resid: Float[Tensor, "row pos d_model"]
    columns: Int[Tensor, "row pos"] | slice | None = None
    """Which columns ``resid`` holds: all from ``start`` to ``stop``, or those still needed."""
    attn_out: Float[Tensor, "row pos d_model"] | None = None
    """Of the layer now running, where attention and MLP run in parallel."""
    places: Places | None = None

    def __post_init__(self) -> None:
        if self.columns is None:
            self.columns = slice(self.start, self.stop)
        if self.start and len(self.prompts):
            self.places = Places.of(self.prompts)

    @property
    def n_rows(self) -> int:
        return len(self.prompts)

    def append(self, prompts: Int[Tensor, " row"], resid: Float[Tensor, "row pos d_model"]) -> None:
        """Put further rows in flight."""
        self.prompts = torch.cat([self.prompts, prompts])
        self.resid = torch.cat([self.resid, resid])
        self.places = Places.of(self.prompts) if self.start else None

    def take(self, table: Shaped[Tensor, "prompt pos ..."]) -> Shaped[Tensor, "row k ..."]:
        """What a table of the base prompts holds at the columns of these rows."""
        assert self.columns is not None
        return take_columns(table, self.prompts, self.columns)


class KeyValues(Protocol):
    """Keys and values of a base run, and the geometry of its columns."""

    @property
    def keys(self) -> Sequence[Tensor]:
        """Of each layer, [prompt, kv_head, pos, d_head], as they meet queries."""

    @property
    def values(self) -> Sequence[Tensor]:
        """Of each layer, [prompt, kv_head, pos, d_head]."""

    @property
    def geometry(self) -> Geometry:
        """Where the base run's columns stand."""


class Watcher(Protocol):
    """Sees the activations of rows in flight as they are made, and may change them."""

    def wants(self, component: str, layer: int) -> bool:
        """Whether :meth:`see` is to be called for a component."""

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        """The activation of all rows of a wave at its present columns; returns what to go on with."""

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        """Head outputs [row, pos, head, d_head] and their sum after W_O; returns the sum to go on with."""


class _Blind:
    """Wants nothing."""

    def wants(self, component: str, layer: int) -> bool:
        return False

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        return o


BLIND: Watcher = _Blind()
_MLP_PARTS = ("mlp_pre", "mlp_pre_linear", "mlp_post", "mlp_o", "mlp_out")


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
            flat = _mlp_in_parts(block, x)
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


def _mlp_in_parts(block: Block, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
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
