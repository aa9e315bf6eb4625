"""Carrying waves of rows through the model, block by block.

Linear maps, norms and MLPs see the tokens of all waves in one matrix; only attention goes wave by
wave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.inject import add_updates, inject_runs
from interp.kernels.norm import Norm
from interp.models.blocks.block import Block
from interp.models.blocks.formation import join_tokens, split_tokens
from interp.models.blocks.mixing import meet_waves, mix_waves
from interp.models.blocks.stack import Stack
from interp.models.blocks.waves import BLIND, KeyValues, Watcher, Wave
from interp.models.traits import NormWeights

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
    x = _normalised(block, waves, block.weights.ln1)
    names = ("keys", "values") if narrow_to is not None else ("queries", "keys", "values")
    projected = dict(zip(names, block.project(x, *names), strict=True))
    keys = _split_heads(projected["keys"], waves, stack.traits.n_kv_heads)
    values = _split_heads(projected["values"], waves, stack.traits.n_kv_heads)
    met = meet_waves(block, waves, keys, values, base, watcher)
    if narrow_to is not None:
        projected["queries"] = block.queries(_narrow(waves, x, narrow_to))
    queries = _split_heads(projected["queries"], waves, stack.traits.n_heads)
    z = mix_waves(block, waves, queries, met, base, watcher)
    flat = block.output(join_tokens(z).flatten(1))
    if watcher.wants("result", layer):
        for wave, heads, o in zip(waves, z, _views(flat, waves), strict=True):
            o.copy_(watcher.see_result(layer, wave, heads, o))
    _watch("o", layer, waves, _views(flat, waves), watcher)
    flat = block.finish_attention(flat)
    outs = _watch("attn_out", layer, waves, _views(flat, waves), watcher)
    if stack.traits.parallel_blocks:
        for wave, out in zip(waves, outs, strict=True):
            wave.attn_out = out
        return
    watched = not block.has_mlp or watcher.wants("resid_mid", layer)
    _update(waves, [outs], None if watched else block.mlp_norm)
    if block.has_mlp:
        _watch_stream("resid_mid", layer, waves, watcher)


def run_mlp(stack: Stack, layer: int, waves: Sequence[Wave], watcher: Watcher = BLIND) -> None:
    """Run the MLP of one layer on all waves, in place: to resid_post."""
    if not waves:
        return
    block = stack.blocks[layer]
    updates: list[Sequence[Tensor]] = []
    if waves[0].attn_out is not None:
        updates.append([wave.attn_out for wave in waves if wave.attn_out is not None])
    if block.has_mlp:
        parallel = stack.traits.parallel_blocks
        # what a parallel block's waves have normalised is its attention's input
        x = (_fresh if parallel else _normalised)(block, waves, block.weights.ln2)
        if any(watcher.wants(part, layer) for part in _MLP_PARTS):
            flat = _watched_mlp(block, x, waves, watcher)
        else:
            flat = mlp_in_parts(block, x)
        updates.append(_watch("mlp_out", layer, waves, _views(block.finish_mlp(flat), waves), watcher))
    _update(waves, updates, _next_norm(stack, layer, watcher))
    for wave in waves:
        wave.attn_out = None
    _watch_stream("resid_post", layer, waves, watcher)


def _next_norm(stack: Stack, layer: int, watcher: Watcher) -> Norm | None:
    """The norm before the next attention, where rows go on to it as they leave this layer."""
    watched = watcher.wants("resid_post", layer) or watcher.wants("resid_pre", layer + 1)
    # under autograd it is one layer that is run again
    if watched or layer + 1 == len(stack.blocks) or torch.is_grad_enabled():
        return None
    return stack.blocks[layer + 1].attention_norm


def _update(waves: Sequence[Wave], updates: Sequence[Sequence[Tensor]], norm: Norm | None) -> None:
    """Add to every wave its part of each update, in one pass where a kernel runs, and with the norm then."""
    if not updates:
        return
    if not inject_runs([waves[0].resid, *(update[0] for update in updates)]):
        for parts in updates:
            for wave, part in zip(waves, parts, strict=True):
                wave.resid = wave.resid + part
        return
    flat, normed = add_updates(_flat(waves), [join_tokens(parts) for parts in updates], norm)
    every: Sequence[Tensor | None] = [None] * len(waves) if normed is None else _views(normed, waves)
    for wave, resid, own in zip(waves, _views(flat, waves), every, strict=True):
        wave.carry(resid, own)


def _normalised(block: Block, waves: Sequence[Wave], norm: NormWeights | None) -> Float[Tensor, "n d_model"]:
    """All waves' tokens through the norm of the sublayer that comes now."""
    made = [wave.normed for wave in waves]
    found = [part for part in made if part is not None]
    return join_tokens(found) if len(found) == len(made) else _fresh(block, waves, norm)


def _fresh(block: Block, waves: Sequence[Wave], norm: NormWeights | None) -> Float[Tensor, "n d_model"]:
    return block.normalise(_flat(waves), norm)


def _narrow(waves: Sequence[Wave], x: Tensor, columns: Tensor) -> Tensor:
    """Keep only some columns of every row; returns the same of the normalised ``x``."""
    kept = []
    for wave, part in zip(waves, _views(x, waves), strict=True):
        mine = columns[wave.prompts].clamp(wave.start, wave.stop - 1)
        if mine.shape[1] < wave.resid.shape[1]:
            at = (mine - wave.start)[:, :, None].expand(-1, -1, x.shape[-1])
            wave.resid, part = wave.resid.gather(1, at), part.gather(1, at)
            wave.columns = mine
        kept.append(part)
    return join_tokens(kept)


def _watched_mlp(block: Block, x: Tensor, waves: Sequence[Wave], watcher: Watcher) -> Tensor:
    x = join_tokens(_watch("mlp_in", block.layer, waves, _views(x, waves), watcher))
    linear = None
    if block.gate is None:
        pre = block.mlp_in(x)
    else:
        pre, linear = block.gate(x), block.mlp_in(x)
        linear = join_tokens(_watch("mlp_pre_linear", block.layer, waves, _views(linear, waves), watcher))
    pre = join_tokens(_watch("mlp_pre", block.layer, waves, _views(pre, waves), watcher))
    post = _views(block.mlp_hidden(pre, linear), waves)
    out = block.mlp_out(join_tokens(_watch("mlp_post", block.layer, waves, post, watcher)))
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
            # what was normalised before no longer holds: watchers may write in place
            wave.carry(watcher.see(component, layer, wave, wave.resid))


def _flat(waves: Sequence[Wave]) -> Float[Tensor, "n d_model"]:
    return join_tokens([wave.resid for wave in waves])


def _views(flat: Tensor, waves: Sequence[Wave]) -> list[Tensor]:
    """A matrix of all waves' tokens as one [row, pos, d] for each wave."""
    return split_tokens(flat, [(wave.resid.shape[0], wave.resid.shape[1]) for wave in waves])


def _split_heads(flat: Tensor, waves: Sequence[Wave], n_heads: int) -> list[Tensor]:
    return [part.unflatten(-1, (n_heads, -1)) for part in _views(flat, waves)]
