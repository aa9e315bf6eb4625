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
from interp.models.blocks.mixing import meet_waves, mix_waves
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
    met = meet_waves(block, waves, keys, values, base, watcher)
    if narrow_to is not None:
        projected["queries"] = block.queries(_narrow(waves, x, narrow_to))
    queries = _split_heads(projected["queries"], waves, stack.traits.n_heads)
    z = mix_waves(block, waves, queries, met, base, watcher)
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
            flat = mlp_in_parts(block, x)
        outs = _watch("mlp_out", layer, waves, _views(block.finish_mlp(flat), waves), watcher)
    for wave, out in zip(waves, outs, strict=True):
        for part in (wave.attn_out, out):
            wave.resid = wave.resid if part is None else wave.resid + part
        wave.attn_out = None
    _watch_stream("resid_post", layer, waves, watcher)


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
