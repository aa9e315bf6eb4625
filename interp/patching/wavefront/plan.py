"""Which rows a sweep needs: no-ops left out, and where each of the others begins.

A row is one set of cells patched in one prompt. It begins at the first column where a patched
activation differs from the base run's and at the first layer where one does; before both it *is*
the base run. A row in which none differs, or that begins after the last column that the metric
reads, has the base run's metric and is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models.blocks import Stack, Trace
from interp.patching.cells import Cell
from interp.patching.wavefront.cells import ORDER, CellTable, entry_of
from interp.patching.wavefront.transfers import send_numbers, send_together
from interp.patching.wavefront.values import Values
from interp.types import NEURON_COMPONENTS, PATTERN_COMPONENTS

FULL = -1
"""In place of a cell: the row enters before its layer with the base stream, and all is written in flight."""


@dataclass(frozen=True)
class RowPlan:
    """Rows to run, as arrays; sorted by first column, then by where they enter."""

    group: np.ndarray
    prompt: np.ndarray
    start: np.ndarray
    """First column of each row."""
    entry: np.ndarray
    """See :func:`~interp.patching.wavefront.cells.entry_of`."""
    birth: np.ndarray
    """The cell that the row begins with, or ``FULL``."""
    later: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]
    """(component, layer) -> rows and the cells to be written into them in flight."""

    def __len__(self) -> int:
        return len(self.group)

    def select(self, rows: np.ndarray) -> RowPlan:
        """Some of the rows, in their order; none of them may be written in flight."""
        return RowPlan(
            self.group[rows],
            self.prompt[rows],
            self.start[rows],
            self.entry[rows],
            self.birth[rows],
            {},
        )


def plan_rows(
    stack: Stack,
    groups: Sequence[Sequence[Cell]],
    cells: CellTable,
    base: Trace,
    new: Values,
    differs_from: Int[Tensor, " prompt"] | None,
    last_read: Int[Tensor, " prompt"],
    whole_groups: bool = False,
) -> RowPlan:
    """Rows of every group in every prompt.

    ``differs_from`` is the first column at which the two prompts of a pair differ, where the
    replacing activations are the other prompt's own: before it nothing can differ. With
    ``whole_groups`` all prompts of a group begin together, for metrics on whole batches.
    """
    first = _first_changes(cells, base, new, differs_from)
    atoms_group = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    atoms_cell = np.array([cells.number_of[id(cell)] for group in groups for cell in group])
    n_columns = base.tokens.shape[1]
    found = first[atoms_cell]
    order = np.array([cell.layer * len(ORDER) + ORDER.index(cell.component) for cell in cells.cells])
    rank = np.where(found < n_columns, order[atoms_cell][:, None], np.iinfo(np.int64).max)
    start = np.full((len(groups), found.shape[1]), n_columns)
    begin = np.full_like(start, np.iinfo(np.int64).max)
    if len(atoms_group):
        heads = np.r_[0, np.flatnonzero(np.diff(atoms_group)) + 1]
        start[atoms_group[heads]] = np.minimum.reduceat(found, heads, axis=0)
        begin[atoms_group[heads]] = np.minimum.reduceat(rank, heads, axis=0)
    needed = (start < n_columns) & (start <= last_read.cpu().numpy()[None])
    if whole_groups:
        start = np.where(needed, start, n_columns).min(axis=1, keepdims=True) + np.zeros_like(start)
    return _lay_out(stack, cells, atoms_group, atoms_cell, order, start, begin, needed)


def _lay_out(
    stack: Stack,
    cells: CellTable,
    atoms_group: np.ndarray,
    atoms_cell: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    begin: np.ndarray,
    needed: np.ndarray,
) -> RowPlan:
    group, prompt = np.nonzero(needed)
    layer = begin[group, prompt] // len(ORDER)
    # atoms of a row: those of its group; rows of one group share them
    counts = np.bincount(atoms_group, minlength=len(needed))
    offsets = np.r_[0, np.cumsum(counts)][:-1]
    row_of = np.repeat(np.arange(len(group)), counts[group])
    within = np.arange(len(row_of)) - np.repeat(np.r_[0, np.cumsum(counts[group])][:-1], counts[group])
    cell_of = atoms_cell[offsets[group][row_of] + within]
    # what comes before a row's beginning changes nothing
    live = order[cell_of] >= begin[group, prompt][row_of]
    row_of, cell_of = row_of[live], cell_of[live]
    cell_layer = np.array([cell.layer for cell in cells.cells])
    here = cell_layer[cell_of] == layer[row_of]
    single = np.bincount(row_of[here], minlength=len(group)) == 1
    birth = np.full(len(group), FULL)
    birth[row_of[here]] = cell_of[here]
    birth[~single] = FULL
    entries = np.array([entry_of(cell.component, cell.layer, stack.traits) for cell in cells.cells])
    entry = np.where(birth == FULL, 2 * layer, entries[birth])
    begins = start[group, prompt]
    rows = np.lexsort((entry, begins))
    place = np.empty_like(rows)
    place[rows] = np.arange(len(rows))
    pending = ~(here & single[row_of])
    return RowPlan(
        group[rows],
        prompt[rows],
        begins[rows],
        entry[rows],
        birth[rows],
        _by_place(cells, place[row_of[pending]], cell_of[pending]),
    )


def _by_place(
    cells: CellTable, rows: np.ndarray, numbers: np.ndarray
) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    if not len(rows):
        return {}
    found = {}
    for key, mine in cells.by_place().items():
        here = np.flatnonzero(np.isin(numbers, mine))
        if len(here):
            found[key] = (rows[here], numbers[here])
    return found


def _first_changes(
    cells: CellTable, base: Trace, new: Values, differs_from: Int[Tensor, " prompt"] | None
) -> np.ndarray:
    """First column at which each cell changes each prompt, [cell, prompt]; the number of columns if none."""
    n_prompts, n_columns = base.tokens.shape
    parts, order = [], list[int]()
    for (component, layer), numbers in cells.by_place().items():
        differs = _differences(component, layer, base, new)
        if differs_from is not None:
            column = torch.arange(n_columns, device=differs.device)
            differs = differs & (column[None] >= differs_from.to(differs.device)[:, None])[..., None]
        parts.append(_first_of(cells, np.array(numbers), differs))
        order += numbers
    first = np.empty((len(order), n_prompts), dtype=np.int64)
    # one transfer: what is not known yet is waited for once
    first[order] = torch.cat(parts).cpu().numpy()
    return first


def _differences(component: str, layer: int, base: Trace, new: Values) -> Bool[Tensor, "prompt pos part"]:
    """Where an activation is not the base run's, for every head or neuron; one part for all else."""
    name = "z" if component == "result" else component
    unequal = new(name, layer) != base[name, layer]
    if component in PATTERN_COMPONENTS:
        return unequal.any(-1).transpose(1, 2)
    if unequal.ndim == 4:
        return unequal.any(-1)
    return unequal if component in NEURON_COMPONENTS else unequal.any(-1)[..., None]


def _first_of(
    cells: CellTable, numbers: np.ndarray, differs: Bool[Tensor, "prompt pos part"]
) -> Int[Tensor, "cell prompt"]:
    where, part = cells.where_of[numbers], cells.part_of[numbers]
    whole = differs.any(-1) if differs.shape[-1] > 1 else differs[..., 0]
    found = _first_true(whole & cells.wheres)[send_numbers(where, cells.device)]
    for one in np.unique(where[part >= 0]).tolist():
        mine = np.flatnonzero((where == one) & (part >= 0))
        at, own = send_together([mine, part[mine]], cells.device)
        by_part = _first_true((differs & cells.wheres[one][..., None]).transpose(1, 2))
        found[at] = by_part[:, own].T
    return found


def _first_true(flags: Bool[Tensor, "*rest pos"]) -> Int[Tensor, "*rest"]:
    """First true column, the number of columns if none is."""
    n = flags.shape[-1]
    return torch.where(flags.any(-1), flags.int().argmax(-1), n)
