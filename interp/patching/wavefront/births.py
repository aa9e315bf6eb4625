"""Where a row with one changed component joins the rows in flight, and with what residual stream.

Every site is a change of the residual stream at one layer. What comes before the change is the base
run's, so it is never computed again: a head's output enters as ``(new - old) @ W_O`` before the
MLP, a neuron as ``(new - old) * W_out[neuron]`` after it, a changed query, key, value or pattern as
that one head recomputed. A norm after the sublayer is recomputed on the changed sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack
from interp.models.blocks.block import Block
from interp.models.blocks.geometry import take_columns
from interp.models.blocks.trace import Trace
from interp.patching.replacement import restrict, within_subspace
from interp.patching.wavefront.cells import (
    ATTENTION,
    MLP_HIDDEN,
    CellTable,
    entry_of,
    take_head,
    take_head_first,
)
from interp.patching.wavefront.values import Values

Columns = Int[Tensor, "row pos"] | slice


def base_needs(component: str, layer: int, stack: Stack) -> set[tuple[str, int]]:
    """Activations of the base run that births at this component read."""
    traits = stack.traits
    names: set[str] = {component}
    if component in ("embed", "resid_pre", "resid_post"):
        names = {"embed"} if component == "embed" else set()
    elif component in ATTENTION:
        names |= {"z", "queries", "pattern"} if component in ("k", "v", "q") else {"z"}
    elif component == "result":
        names = {"z"}
    elif component in MLP_HIDDEN:
        names = {"mlp_pre", "mlp_post"} | ({"mlp_pre_linear"} if traits.gated_mlp else set())
    if traits.post_norms and component in (*ATTENTION, "z", "result"):
        names.add("o")
    if traits.post_norms and component in MLP_HIDDEN:
        names.add("mlp_o")
    if entry_of(component, layer, traits) == 2 * layer + 1:
        names.add("resid_mid")
    return {(name, layer) for name in names}


class Births:
    """Makes the residual streams that rows begin with."""

    def __init__(self, stack: Stack, base: Trace, new: Values, cells: CellTable) -> None:
        self.stack = stack
        self.base = base
        self.new = new
        self.cells = cells

    def base_stream(
        self, entry: int, prompts: Int[Tensor, " row"], columns: Columns
    ) -> Float[Tensor, "row pos d_model"]:
        """The base run's residual stream at an entry point."""
        layer, phase = divmod(entry, 2)
        table = self.base["resid_mid", layer] if phase else self.base.stream[layer]
        return take_columns(table, prompts, columns)

    def make(
        self,
        component: str,
        layer: int,
        cells: Int[Tensor, " row"],
        prompts: Int[Tensor, " row"],
        columns: Columns,
        stop: int,
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream of each row at its entry point, with its cell patched.

        ``stop`` is the column before which keys are seen. All rows have the same component and layer.
        """
        entry = entry_of(component, layer, self.stack.traits)
        resid = self.base_stream(entry, prompts, columns).clone()
        for rows, basis in self.cells.by_subspace(cells):
            mine = columns if isinstance(columns, slice) else columns[rows]
            given = (component, layer, cells[rows], prompts[rows], mine)
            if component in ATTENTION:
                resid[rows] = resid[rows] + self._head_delta(*given, stop, basis)
            else:
                at, delta = self._token_delta(*given, basis)
                row = rows[at[0]]
                resid[row, at[1]] = resid[row, at[1]] + delta
        return resid

    def _token_delta(
        self,
        component: str,
        layer: int,
        cells: Tensor,
        prompts: Tensor,
        columns: Columns,
        basis: Tensor | None,
    ) -> tuple[tuple[Tensor, Tensor], Float[Tensor, "token d_model"]]:
        """Change of the stream at every patched place: (row, place among the columns), and by how much."""
        tokens = self.cells.tokens(cells, prompts, columns)
        at, place = (tokens.row, tokens.at), (tokens.prompt, tokens.column)
        if component in ("z", "result"):
            heads = self.cells.heads[tokens.cell]
            delta = self.new("z", layer)[(*place, heads)] - self.base["z", layer][(*place, heads)]
            if component == "z":
                return at, self._attention_change(layer, place, restrict(delta, basis), heads[:, None])
            result = restrict(self._through_output(layer, delta, heads[:, None]), basis)
            if not self.stack.traits.post_norms:
                return at, result
            finish, old = self.stack.blocks[layer].finish_attention, self.base["o", layer][place]
            return at, finish(old + result) - finish(old)
        if component in MLP_HIDDEN:
            return at, self._neuron_change(component, layer, tokens.cell, place, basis)
        delta = self.new(component, layer)[place] - self.base[component, layer][place]
        return at, restrict(delta, basis)

    def _through_output(
        self, layer: int, delta: Float[Tensor, "*rest d"], heads: Int[Tensor, "row n"]
    ) -> Float[Tensor, "*rest d_model"]:
        """Changes of heads' outputs, several heads' side by side in the last axis, through W_O."""
        W_O = self.stack.blocks[layer].weights.W_O
        out = delta.new_empty(*delta.shape[:-1], W_O.shape[-1])
        first = heads[:, 0]
        for head in first.unique().tolist():
            rows = (first == head).nonzero()[:, 0]
            weight = W_O[head : head + heads.shape[1]].flatten(0, 1)
            out[rows] = delta[rows] @ weight
        return out

    def _attention_change(
        self,
        layer: int,
        place: tuple[Tensor, Tensor],
        delta: Float[Tensor, "token d"],
        heads: Int[Tensor, "token n"],
    ) -> Float[Tensor, "token d_model"]:
        """What changes of some heads' outputs, side by side in the last axis, do to ``attn_out``."""
        if not self.stack.traits.post_norms:
            return self._through_output(layer, delta, heads)
        # summed before the norm, which would blow up the rounding of a difference: an output of zeros is zeros
        block, token = self.stack.blocks[layer], torch.arange(len(delta), device=delta.device)
        z = self.base["z", layer][place]
        z[token[:, None], heads] += delta.unflatten(-1, (heads.shape[1], -1))
        new, old = block.output(z.flatten(1)), self.base["o", layer][place]
        return block.finish_attention(new) - block.finish_attention(old)

    def _neuron_change(
        self, component: str, layer: int, cells: Tensor, place: tuple[Tensor, Tensor], basis: Tensor | None
    ) -> Float[Tensor, "token d_model"]:
        """Change of ``mlp_out`` where some of the MLP's neurons, or all, are changed."""
        block = self.stack.blocks[layer]
        W_out = block.mlp_out.weight
        neurons = self.cells.neurons[cells]
        if len(cells) and bool((neurons >= 0).all()) and not self.stack.traits.post_norms:
            delta = self._hidden_delta(component, layer, (*place, neurons), neurons, basis)
            return delta[:, None] * W_out[neurons]
        out = W_out.new_empty(len(cells), W_out.shape[1])
        for rows, part in self.cells.by_neurons(cells):
            chosen = torch.arange(len(W_out)) if part is None else torch.tensor(part)
            chosen = chosen.to(cells.device)
            here = (place[0][rows], place[1][rows])
            index = (here[0][:, None], here[1][:, None], chosen[None])
            delta = self._hidden_delta(component, layer, index, chosen, basis)
            if not self.stack.traits.post_norms:
                out[rows] = delta @ W_out[chosen]
                continue
            post = self.base["mlp_post", layer][here]
            post[:, chosen] += delta
            old = self.base["mlp_o", layer][here]
            out[rows] = block.finish_mlp(block.mlp_out(post)) - block.finish_mlp(old)
        return out

    def _hidden_delta(
        self, component: str, layer: int, index: tuple[Tensor, ...], neurons: Tensor, basis: Tensor | None
    ) -> Tensor:
        """Change of ``mlp_post`` at these places and neurons."""
        block = self.stack.blocks[layer]
        old = self.base[component, layer][index]
        delta = self.new(component, layer)[index] - old
        if basis is not None:
            delta = restrict(delta if delta.ndim > 1 else delta[:, None], basis).view_as(delta)
        if component == "mlp_post":
            return delta
        pre = self.base["mlp_pre", layer][index]
        linear = self.base["mlp_pre_linear", layer][index] if block.gate is not None else None
        if component == "mlp_pre":
            pre = old + delta
        else:
            linear = old + delta
        post = block.act(pre) if linear is None else block.act(pre) * linear
        if block.weights.b_post is not None:
            post = post + block.weights.b_post[neurons]
        return post - self.base["mlp_post", layer][index]

    def _head_delta(
        self,
        component: str,
        layer: int,
        cells: Tensor,
        prompts: Tensor,
        columns: Columns,
        stop: int,
        basis: Tensor | None,
    ) -> Float[Tensor, "row pos d_model"]:
        """Change of the attention's own output where one head's query, key, value or pattern is changed."""
        block = self.stack.blocks[layer]
        group = block.traits.group_size
        own = self.cells.heads[cells][:, None]
        if component in ("k", "v"):
            kv, heads = own, own * group + torch.arange(group, device=own.device)
        else:
            kv, heads = own // group, own
        every = slice(0, stop)
        pattern = self._pattern(component, block, cells, prompts, columns, every, (own, kv, heads), basis)
        values = take_head_first(self.base.values[layer], prompts, every, kv)
        if component == "v":
            values = self._patched(component, layer, cells, prompts, every, own, basis).transpose(1, 2)
        z = pattern @ values
        old = take_head(self.base["z", layer], prompts, columns, heads)
        delta = (z.transpose(1, 2) - old).flatten(2)
        n = delta.shape[1]
        if isinstance(columns, slice):
            column = torch.arange(columns.start, columns.stop, device=prompts.device).repeat(len(prompts))
        else:
            column = columns.flatten()
        place = (prompts.repeat_interleave(n), column)
        heads = heads.repeat_interleave(n, dim=0)
        return self._attention_change(layer, place, delta.flatten(0, 1), heads).unflatten(0, (-1, n))

    def _pattern(
        self,
        component: str,
        block: Block,
        cells: Tensor,
        prompts: Tensor,
        columns: Columns,
        every: slice,
        heads: tuple[Tensor, Tensor, Tensor],
        basis: Tensor | None,
    ) -> Float[Tensor, "row head dest src"]:
        own, kv, served = heads
        layer = block.layer
        if component == "v":
            return take_head_first(self.base["pattern", layer], prompts, columns, served)[..., : every.stop]
        if component in ("attn_scores", "pattern"):
            old, new = (
                take_head_first(table, prompts, columns, own)
                for table in (self.base[component, layer], self.new(component, layer))
            )
            where = self.cells.mask(cells, prompts, columns)[:, None, :, None]
            if basis is not None:
                new = within_subspace(old, new, basis)
            value = torch.where(where, new, old)[..., : every.stop]
            return value if component == "pattern" else block.weigh(value)
        geometry = self.base.geometry
        across = every if component == "k" else columns
        rotation = [
            None if table is None else take_columns(table, prompts, across)
            for table in (geometry.cos, geometry.sin)
        ]
        changed = self._patched(component, layer, cells, prompts, across, own, basis)
        if component == "k":
            keys = block.turn_keys(changed, *rotation).transpose(1, 2)
            queries = take_head_first(self.base["queries", layer], prompts, columns, served)
        else:
            keys = take_head_first(self.base.keys[layer], prompts, every, kv)
            queries = block.turn_queries(changed, *rotation).transpose(1, 2)
        visible = take_columns(geometry.visible[block.window], prompts, columns)[:, None, :, : every.stop]
        n_served, n_dest = queries.shape[1:3]
        products = queries.reshape(len(queries), 1, n_served * n_dest, -1) @ keys.transpose(-1, -2)
        return block.weigh(block.score(products, visible, n_served))

    def _patched(
        self,
        component: str,
        layer: int,
        cells: Tensor,
        prompts: Tensor,
        columns: Columns,
        heads: Tensor,
        basis: Tensor | None,
    ) -> Float[Tensor, "row pos head d_head"]:
        """One head's raw query, key or value at these columns, patched where its cell says."""
        old = take_head(self.base[component, layer], prompts, columns, heads)
        new = take_head(self.new(component, layer), prompts, columns, heads)
        if basis is not None:
            new = within_subspace(old, new, basis)
        return torch.where(self.cells.mask(cells, prompts, columns)[:, :, None, None], new, old)
