"""Writing into rows that are in flight already: the later members of a set of patched sites."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models.blocks import Stack, Trace, Wave
from interp.patching.replacement import restrict, within_subspace
from interp.patching.wavefront.cells import ATTENTION, CellTable, Tokens
from interp.patching.wavefront.values import Values
from interp.types import NEURON_COMPONENTS, PATTERN_COMPONENTS

Pending = Mapping[tuple[str, int], Mapping[int, tuple[Int[Tensor, " row"], Int[Tensor, " row"]]]]
"""(component, layer) -> wave -> rows of the wave and the cell to be written in each."""


class Editor:
    """A watcher that writes replacing activations into chosen rows of the waves."""

    def __init__(self, stack: Stack, base: Trace, new: Values, cells: CellTable, pending: Pending) -> None:
        self.stack = stack
        self.base = base
        self.new = new
        self.cells = cells
        self.pending = pending

    def wants(self, component: str, layer: int) -> bool:
        """Whether some row is to be changed there."""
        embeddings = (component, layer) == ("resid_pre", 0) and ("embed", 0) in self.pending
        return embeddings or (component, layer) in self.pending

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        """``value`` with the patched rows' parts replaced."""
        if component == "resid_pre" and layer == 0:
            value = self._add_embeddings(wave, value)
        value = value.contiguous()
        for rows, cells, basis in self._edits(component, layer, wave.index):
            self._write(component, layer, wave, value, rows, cells, basis)
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        """The attention's output with the patched heads' own contributions replaced."""
        W_O, source = self.stack.blocks[layer].weights.W_O, self.new("z", layer)
        change: dict[int, Tensor] = {}
        for rows, cells, basis in self._edits("result", layer, wave.index):
            tokens = self._tokens(wave, rows, cells)
            for head in self.cells.heads[tokens.cell].unique().tolist():
                mine = (self.cells.heads[tokens.cell] == head).nonzero()[:, 0]
                at = (rows[tokens.row[mine]], tokens.at[mine])
                done = change.setdefault(head, torch.zeros_like(o))
                own = z[(*at, head)] @ W_O[head]
                new = source[tokens.prompt[mine], tokens.column[mine], head] @ W_O[head]
                done[at] = done[at] + restrict(new - own - done[at], basis)
        return o + torch.stack(list(change.values())).sum(0) if change else o

    def _edits(self, component: str, layer: int, wave: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Rows, their cells and the cells' subspace, for one wave."""
        found = self.pending.get((component, layer), {}).get(wave)
        if found is None:
            return []
        rows, cells = found
        return [(rows[some], cells[some], basis) for some, basis in self.cells.by_subspace(cells)]

    def _tokens(self, wave: Wave, rows: Tensor, cells: Tensor) -> Tokens:
        columns = wave.columns
        assert columns is not None
        mine = columns if isinstance(columns, slice) else columns[rows]
        return self.cells.tokens(cells, wave.prompts[rows], mine)

    def _add_embeddings(self, wave: Wave, value: Tensor) -> Tensor:
        """A patched token embedding moves the stream by its difference; positions stay."""
        edits = self._edits("embed", 0, wave.index)
        if not edits:
            return value
        old = wave.take(self.base["embed", 0])
        embedded = old.clone()
        for rows, cells, basis in edits:
            tokens = self._tokens(wave, rows, cells)
            at = (rows[tokens.row], tokens.at)
            now = embedded[at]
            embedded[at] = now + restrict(self.new("embed", 0)[tokens.prompt, tokens.column] - now, basis)
        return value + (embedded - old)

    def _write(
        self,
        component: str,
        layer: int,
        wave: Wave,
        value: Tensor,
        rows: Tensor,
        cells: Tensor,
        basis: Tensor | None,
    ) -> None:
        tokens = self._tokens(wave, rows, cells)
        row, source = rows[tokens.row], self.new(component, layer)
        place = (tokens.prompt, tokens.column)
        heads = self.cells.heads[tokens.cell]
        if component in PATTERN_COMPONENTS:
            index: tuple[Tensor, ...] = (row, heads, tokens.at)
            new = source[tokens.prompt, heads, tokens.column][:, : value.shape[-1]]
        elif component in (*ATTENTION, "z"):
            index, new = (row, tokens.at, heads), source[(*place, heads)]
        elif component in NEURON_COMPONENTS:
            self._write_neurons(value, source, row, tokens, basis)
            return
        else:
            index, new = (row, tokens.at), source[place]
        if basis is not None:
            new = within_subspace(value[index], new, basis)
        value[index] = new.to(value.dtype)

    def _write_neurons(
        self, value: Tensor, source: Tensor, row: Tensor, tokens: Tokens, basis: Tensor | None
    ) -> None:
        for some, part in self.cells.by_neurons(tokens.cell):
            chosen = slice(None) if part is None else torch.tensor(part, device=value.device)
            index = (row[some], tokens.at[some])
            old = value[index]
            new = source[tokens.prompt[some], tokens.column[some]]
            if basis is not None:
                old[:, chosen] = within_subspace(old[:, chosen], new[:, chosen], basis)
            else:
                old[:, chosen] = new[:, chosen]
            value[index] = old
