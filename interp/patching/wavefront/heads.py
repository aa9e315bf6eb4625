"""One head computed again, with its query, key, value or pattern changed: what it adds to the stream then."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.inject import DirectionPatch, inject_runs, start_rows
from interp.models.blocks import Stack, Trace
from interp.models.blocks.geometry import take_columns
from interp.patching.wavefront.cells import take_head, take_head_first

Columns = Int[Tensor, "row n_columns"] | slice


def stream_at(base: Trace, entry: int) -> Float[Tensor, "prompt pos d_model"]:
    """The base run's residual stream at an entry point, see :func:`~interp.patching.wavefront.cells.entry_of`."""
    layer, phase = divmod(entry, 2)
    return base["resid_mid", layer] if phase else base.stream[layer]


def base_stream(
    base: Trace, entry: int, prompts: Int[Tensor, " row"], columns: Columns
) -> Float[Tensor, "row pos d_model"]:
    """Rows' residual streams in the base run, at an entry point."""
    return take_columns(stream_at(base, entry), prompts, columns)


class HeadChanges:
    """Changes of an attention's output, against a base run that keeps z, queries and patterns where needed."""

    def __init__(self, stack: Stack, base: Trace) -> None:
        self.stack = stack
        self.base = base

    def through_output(
        self, layer: int, delta: Float[Tensor, "token d"], heads: Int[Tensor, "token n"]
    ) -> Float[Tensor, "token d_model"]:
        """Changes of heads' outputs, those of one key/value head's side by side in the last axis, through W_O."""
        W_O = self.stack.blocks[layer].weights.W_O
        if len(delta) and inject_runs([delta]):
            return _through_output(W_O, delta, heads)
        out = delta.new_empty(*delta.shape[:-1], W_O.shape[-1])
        first = heads[:, 0]
        for head in first.unique().tolist():
            rows = (first == head).nonzero()[:, 0]
            weight = W_O[head : head + heads.shape[1]].flatten(0, 1)
            out[rows] = delta[rows] @ weight
        return out

    def attention_change(
        self,
        layer: int,
        place: tuple[Tensor, Tensor],
        delta: Float[Tensor, "token d"],
        heads: Int[Tensor, "token n"],
    ) -> Float[Tensor, "token d_model"]:
        """What changes of some heads' outputs, side by side in the last axis, do to ``attn_out``."""
        if not self.stack.traits.post_norms:
            return self.through_output(layer, delta, heads)
        # summed before the norm, which would blow up the rounding of a difference: an output of zeros is zeros
        block, token = self.stack.blocks[layer], torch.arange(len(delta), device=delta.device)
        z = self.base["z", layer][place]
        z[token[:, None], heads] += delta.unflatten(-1, (heads.shape[1], -1))
        new, old = block.output(z.flatten(1)), self.base["o", layer][place]
        return block.finish_attention(new) - block.finish_attention(old)

    def by_input(
        self,
        component: str,
        layer: int,
        prompts: Int[Tensor, " row"],
        columns: Columns,
        stop: int,
        own: Int[Tensor, "row 1"],
        value: Float[Tensor, "row given 1 d_head"],
    ) -> Float[Tensor, "row pos d_model"]:
        """Change of ``attn_out`` at these columns where each row's head ``own`` has this raw query, key or value.

        Queries are given at ``columns``, keys and values (of a key/value head) at all columns before
        ``stop``.
        """
        block = self.stack.blocks[layer]
        group = block.traits.group_size
        kv, served = own // group, own
        if component != "q":
            kv, served = own, own * group + torch.arange(group, device=own.device)
        every = slice(0, stop)
        values = take_head_first(self.base.values[layer], prompts, every, kv)
        if component == "v":
            values = value.transpose(1, 2)
            pattern = take_head_first(self.base["pattern", layer], prompts, columns, served)[..., :stop]
            return self._by_pattern(layer, prompts, columns, served, pattern, values)
        geometry = self.base.geometry
        rotation = [
            None if table is None else take_columns(table, prompts, every if component == "k" else columns)
            for table in (geometry.cos, geometry.sin)
        ]
        if component == "k":
            keys = block.turn_keys(value, *rotation).transpose(1, 2)
            queries = take_head_first(self.base["queries", layer], prompts, columns, served)
        else:
            keys = take_head_first(self.base.keys[layer], prompts, every, kv)
            queries = block.turn_queries(value, *rotation).transpose(1, 2)
        visible = take_columns(geometry.visible[block.window], prompts, columns)[:, None, :, :stop]
        n_served, n_dest = queries.shape[1:3]
        products = queries.reshape(len(queries), 1, n_served * n_dest, -1) @ keys.transpose(-1, -2)
        pattern = block.weigh(block.score(products, visible, n_served))
        return self._by_pattern(layer, prompts, columns, served, pattern, values)

    def by_pattern(
        self,
        layer: int,
        prompts: Int[Tensor, " row"],
        columns: Columns,
        own: Int[Tensor, "row 1"],
        pattern: Float[Tensor, "row 1 dest src"],
    ) -> Float[Tensor, "row pos d_model"]:
        """Change of ``attn_out`` where each row's head ``own`` has this pattern at these columns."""
        kv = own // self.stack.traits.group_size
        values = take_head_first(self.base.values[layer], prompts, slice(0, pattern.shape[-1]), kv)
        return self._by_pattern(layer, prompts, columns, own, pattern, values)

    def _by_pattern(
        self,
        layer: int,
        prompts: Tensor,
        columns: Columns,
        heads: Int[Tensor, "row n"],
        pattern: Float[Tensor, "row n dest src"],
        values: Float[Tensor, "row 1 src d_head"],
    ) -> Float[Tensor, "row pos d_model"]:
        z = pattern @ values
        old = take_head(self.base["z", layer], prompts, columns, heads)
        delta = (z.transpose(1, 2) - old).flatten(2)
        n = delta.shape[1]
        if isinstance(columns, slice):
            column = torch.arange(columns.start, columns.stop, device=prompts.device).repeat(len(prompts))
        else:
            column = columns.flatten()
        place = (prompts.repeat_interleave(n), column)
        spread = heads.repeat_interleave(n, dim=0)
        return self.attention_change(layer, place, delta.flatten(0, 1), spread).unflatten(0, (-1, n))


def _through_output(
    W_O: Float[Tensor, "head d_head d_model"], delta: Float[Tensor, "token d"], heads: Int[Tensor, "token n"]
) -> Float[Tensor, "token d_model"]:
    """Every token's change through its own heads' ``W_O`` in one launch."""
    n = heads.shape[1]
    directions = W_O.reshape(len(W_O) // n, -1, W_O.shape[-1])
    # each token is a row of its own, which begins with zeros
    own = delta[:, None, None].expand(-1, 1, len(directions), -1)
    zeros = delta.new_zeros(1, 1, W_O.shape[-1]).expand(len(delta), 1, -1)
    token = torch.arange(len(delta), device=delta.device)
    patch = DirectionPatch(own, directions, torch.div(heads[:, 0], n, rounding_mode="floor"))
    return start_rows(zeros, token, slice(0, 1), patch)[0][:, 0]
