"""The cells of a sweep as arrays, so that thousands of rows are handled by a few indexing calls."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models.traits import Traits
from interp.patching.cells import Cell
from interp.patching.wavefront.transfers import send_numbers, send_together

Key = TypeVar("Key", bound=Hashable)

ORDER = (
    "embed resid_pre q k v attn_scores pattern z result attn_out resid_mid mlp_in mlp_pre mlp_pre_linear "
    "mlp_post mlp_out resid_post"
).split()
"""Components in the order in which a layer makes them."""
STREAM = ("embed", "resid_pre")
ATTENTION = ("q", "k", "v", "attn_scores", "pattern")
"""Changes that reach the residual stream through a recomputed head."""
MLP_HIDDEN = ("mlp_pre", "mlp_pre_linear", "mlp_post")
MLP = ("mlp_in", *MLP_HIDDEN, "mlp_out", "resid_post")


def entry_of(component: str, layer: int, traits: Traits) -> int:
    """Where a row with one changed component joins the rows in flight: ``2 * layer`` before that
    layer, ``2 * layer + 1`` before its MLP, ``2 * n_layers`` at the readout."""
    if component in STREAM:
        return 2 * layer
    if component in MLP or traits.parallel_blocks or not traits.d_mlp:
        return 2 * layer + 2
    return 2 * layer + 1


@dataclass(frozen=True)
class Tokens:
    """Places that a change touches, one entry each."""

    row: Int[Tensor, " token"]
    """Which of the rows that were asked about."""
    at: Int[Tensor, " token"]
    """Place of the column among the row's present columns."""
    prompt: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    cell: Int[Tensor, " token"]


class CellTable:
    """Cells by number, with their parts as tensors on the model's device."""

    def __init__(
        self,
        groups: Sequence[Sequence[Cell]],
        device: torch.device,
        prompts: Int[Tensor, " prompt"] | None = None,
    ) -> None:
        found: dict[int, int] = {}
        self.cells: list[Cell] = []
        for cell in (cell for group in groups for cell in group):
            if id(cell) not in found:
                found[id(cell)] = len(self.cells)
                self.cells.append(cell)
        self.number_of = found
        places: dict[int, int] = {}
        wheres: list[Tensor] = []
        where_ids = []
        for cell in self.cells:
            if id(cell.where) not in places:
                places[id(cell.where)] = len(wheres)
                wheres.append(cell.where)
            where_ids.append(places[id(cell.where)])
        stacked = torch.stack(wheres)
        if prompts is not None:
            stacked = stacked[:, prompts.to(stacked.device)]
        self.wheres: Bool[Tensor, "where prompt pos"] = stacked.to(device)
        heads = np.array([-1 if c.head is None else c.head for c in self.cells], dtype=np.int64)
        single = [-1 if c.neurons is None or len(c.neurons) != 1 else c.neurons[0] for c in self.cells]
        neurons = np.array(single, dtype=np.int64)
        self.where_of = np.array(where_ids, dtype=np.int64)
        """[cell] Number of its ``where``; on the host."""
        self.part_of = np.maximum(heads, neurons)
        """[cell] Its head or single neuron, -1 where it is neither; on the host."""
        self.where_ids, self.heads, self.neurons = send_together([self.where_of, heads, neurons], device)
        """``neurons``: the neuron of a cell that is one neuron, else -1."""
        self.has_subspaces = any(cell.subspace is not None for cell in self.cells)
        self.prompts = prompts
        """The prompts of the task that the base run has; ``None`` is all of them."""
        self.device = device

    def by_place(self) -> dict[tuple[str, int], list[int]]:
        """Cells of each component and layer."""
        found: dict[tuple[str, int], list[int]] = {}
        for number, cell in enumerate(self.cells):
            found.setdefault((cell.component, cell.layer), []).append(number)
        return found

    def by_subspace(self, cells: Int[Tensor, " row"]) -> list[tuple[Int[Tensor, " some"], Tensor | None]]:
        """Which of these cells share a subspace, and that subspace; ``None`` is the whole activation."""
        if not self.has_subspaces:
            return [(torch.arange(len(cells), device=self.device), None)]
        bases = [self.cells[number].subspace for number in cells.tolist()]
        by_id = {id(basis): basis for basis in bases}
        return [(some, by_id[key]) for key, some in self._group(map(id, bases))]

    def by_neurons(
        self, cells: Int[Tensor, " row"]
    ) -> list[tuple[Int[Tensor, " some"], tuple[int, ...] | None]]:
        """Which of these cells have the same neurons, and those; ``None`` is all of them."""
        groups = self._group(self.cells[number].neurons for number in cells.tolist())
        return [(some, part) for part, some in groups]

    def _group(self, keys: Iterable[Key]) -> list[tuple[Key, Tensor]]:
        """Equal keys, in the order in which they appear, and where they stand."""
        found: dict[Key, list[int]] = {}
        for i, key in enumerate(keys):
            found.setdefault(key, []).append(i)
        return [(key, send_numbers(np.array(at), self.device)) for key, at in found.items()]

    def tokens(
        self,
        cells: Int[Tensor, " row"],
        prompts: Int[Tensor, " row"],
        columns: Int[Tensor, "row pos"] | slice,
    ) -> Tokens:
        """The places that the rows' cells touch, among these columns."""
        which = self.where_ids[cells]
        if isinstance(columns, slice):
            row, at = self.wheres[which, prompts][:, columns].nonzero(as_tuple=True)
            column = at + columns.start
        else:
            row, at = self.wheres[which[:, None], prompts[:, None], columns].nonzero(as_tuple=True)
            column = columns[row, at]
        return Tokens(row, at, prompts[row], column, cells[row])

    def mask(
        self,
        cells: Int[Tensor, " row"],
        prompts: Int[Tensor, " row"],
        columns: Int[Tensor, "row pos"] | slice,
    ) -> Bool[Tensor, "row pos"]:
        """Whether each of these columns is touched by its row's cell."""
        which = self.where_ids[cells]
        if isinstance(columns, slice):
            return self.wheres[which, prompts][:, columns]
        return self.wheres[which[:, None], prompts[:, None], columns]


def take_head(
    table: Tensor, prompts: Tensor, columns: Int[Tensor, "row pos"] | slice, heads: Int[Tensor, "row n"]
) -> Tensor:
    """Some heads of a table [prompt, pos, head, d] for every row: [row, pos, n, d]."""
    if isinstance(columns, slice):
        part = table[:, columns]
        return part[prompts[:, None], :, heads].transpose(1, 2)
    return table[prompts[:, None, None], columns[:, :, None], heads[:, None, :]]


def take_head_first(
    table: Tensor, prompts: Tensor, columns: Int[Tensor, "row pos"] | slice, heads: Int[Tensor, "row n"]
) -> Tensor:
    """Some heads of a table [prompt, head, pos, d] for every row: [row, n, pos, d]."""
    if isinstance(columns, slice):
        return table[:, :, columns][prompts[:, None], heads]
    return table[prompts[:, None, None], heads[:, :, None], columns[:, None, :]]
