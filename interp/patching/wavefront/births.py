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

from interp.models.blocks import Stack, mlp_in_parts
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
from interp.patching.wavefront.heads import Columns, HeadChanges, base_stream
from interp.patching.wavefront.injections import Injections, Newborn
from interp.patching.wavefront.values import Values
from interp.types import PATTERN_COMPONENTS


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
    elif component == "mlp_in":
        names.add("mlp_out")
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
        self.heads = HeadChanges(stack, base)
        self.injections = Injections(stack, base, new, cells)

    def begin(self, entry: int, prompts: Int[Tensor, " row"], columns: Columns) -> Newborn:
        """Rows that enter with the base run's residual stream; all is written into them later."""
        if self.injections.runs():
            return self.injections.begin(entry, prompts, columns)
        return Newborn(base_stream(self.base, entry, prompts, columns))

    def make(
        self,
        component: str,
        layer: int,
        cells: Int[Tensor, " row"],
        prompts: Int[Tensor, " row"],
        columns: Columns,
        stop: int,
    ) -> Newborn:
        """The residual stream of each row at its entry point, with its cell patched.

        ``stop`` is the column before which keys are seen. All rows have the same component and layer.
        """
        entry = entry_of(component, layer, self.stack.traits)
        if self.injections.runs():
            born = self.injections.start(component, layer, entry, cells, prompts, columns)
            if born is not None:
                return born
        resid = base_stream(self.base, entry, prompts, columns).clone()
        for rows, basis in self.cells.by_subspace(cells):
            mine = columns if isinstance(columns, slice) else columns[rows]
            given = (component, layer, cells[rows], prompts[rows], mine)
            if component in ATTENTION:
                resid[rows] = resid[rows] + self._head_delta(*given, stop, basis)
            else:
                at, delta = self._token_delta(*given, basis)
                row = rows[at[0]]
                resid[row, at[1]] = resid[row, at[1]] + delta
        return Newborn(resid)

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
                return at, self.heads.attention_change(layer, place, restrict(delta, basis), heads[:, None])
            result = restrict(self.heads.through_output(layer, delta, heads[:, None]), basis)
            if not self.stack.traits.post_norms:
                return at, result
            finish, old = self.stack.blocks[layer].finish_attention, self.base["o", layer][place]
            return at, finish(old + result) - finish(old)
        if component in MLP_HIDDEN:
            return at, self._neuron_change(component, layer, tokens.cell, place, basis)
        old = self.base[component, layer][place]
        delta = restrict(self.new(component, layer)[place] - old, basis)
        return at, self._mlp_change(layer, place, old + delta) if component == "mlp_in" else delta

    def _mlp_change(
        self, layer: int, place: tuple[Tensor, Tensor], x: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """Change of ``mlp_out`` where ``x`` enters the MLP."""
        block = self.stack.blocks[layer]
        return block.finish_mlp(mlp_in_parts(block, x)) - self.base["mlp_out", layer][place]

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
        own = self.cells.heads[cells][:, None]
        if component in PATTERN_COMPONENTS:
            pattern = self._written_pattern(component, layer, cells, prompts, columns, stop, own, basis)
            return self.heads.by_pattern(layer, prompts, columns, own, pattern)
        across: Columns = columns if component == "q" else slice(0, stop)
        old = take_head(self.base[component, layer], prompts, across, own)
        new = take_head(self.new(component, layer), prompts, across, own)
        if basis is not None:
            new = within_subspace(old, new, basis)
        value = torch.where(self.cells.mask(cells, prompts, across)[:, :, None, None], new, old)
        return self.heads.by_input(component, layer, prompts, columns, stop, own, value)

    def _written_pattern(
        self,
        component: str,
        layer: int,
        cells: Tensor,
        prompts: Tensor,
        columns: Columns,
        stop: int,
        own: Int[Tensor, "row 1"],
        basis: Tensor | None,
    ) -> Float[Tensor, "row 1 dest src"]:
        old, new = (
            take_head_first(table, prompts, columns, own)
            for table in (self.base[component, layer], self.new(component, layer))
        )
        where = self.cells.mask(cells, prompts, columns)[:, None, :, None]
        if basis is not None:
            new = within_subspace(old, new, basis)
        value = torch.where(where, new, old)[..., :stop]
        return value if component == "pattern" else self.stack.blocks[layer].weigh(value)
