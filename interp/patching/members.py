"""The places of a search over sets: distinct cells with names, and sets as their numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models.model import Model
from interp.patching.cells import Cell, Sweep, plan_sweep
from interp.patching.wavefront.cells import ORDER
from interp.results import SiteScores
from interp.tasks.base import PromptPairs
from interp.types import ALL, LATENTS, Site

Identity = tuple[Cell, bytes, bytes]


@dataclass(frozen=True)
class Members:
    """Distinct cells in the order in which a model computes them, each with a name of its own."""

    cells: tuple[Cell, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def places(self) -> set[tuple[str, int]]:
        """Components and layers that these cells are parts of."""
        return {(cell.component, cell.layer) for cell in self.cells}

    def take(self, kept: Sequence[int]) -> Members:
        """Some of these, in the order given."""
        return Members(tuple(self.cells[i] for i in kept), tuple(self.names[i] for i in kept))


def gather_members(
    model: Model, task: PromptPairs, sets: Iterable[Iterable[Site]], direction: str
) -> tuple[Members, list[tuple[int, ...]]]:
    """All cells of these sets, and every set as the numbers of its cells.

    A site that sweeps gives all of its cells; positions are taken together unless the site says
    which. Cells that patch the same activations at the same columns are one member, whatever their
    sites were called. Raises as :func:`plan_sweep` does.
    """
    cells: dict[Identity, Cell] = {}
    names: dict[Identity, str] = {}
    wheres: dict[bytes, Tensor] = {}
    planned: dict[Site, list[Identity]] = {}
    asked: list[list[Identity]] = []
    for sites in sets:
        here: list[Identity] = []
        for site in sites:
            if site not in planned:
                sweep = plan_sweep(
                    model, task, site if site.positions is not None else site.at(ALL), direction
                )
                planned[site] = [_identity(cell) for cell in sweep.cells]
                for key, cell, name in zip(planned[site], sweep.cells, _names(sweep), strict=True):
                    # equal masks are one tensor, so that they are stored once
                    cells.setdefault(key, replace(cell, where=wheres.setdefault(key[1], cell.where)))
                    names.setdefault(key, name)
            here += planned[site]
        asked.append(list(dict.fromkeys(here)))
    keys = sorted(cells, key=lambda key: _order(cells[key]))
    number = {key: i for i, key in enumerate(keys)}
    members = Members(tuple(cells[key] for key in keys), _distinct([names[key] for key in keys]))
    return members, [tuple(number[key] for key in here) for here in asked]


def pad_sets(sets: Sequence[Sequence[int]]) -> Int[Tensor, "set size"]:
    """Sets as rows of one table, with -1 after the last member of the smaller ones."""
    size = max(map(len, sets))
    return torch.tensor([[*members, *[-1] * (size - len(members))] for members in sets])


def _identity(cell: Cell) -> Identity:
    span = b"" if cell.subspace is None else cell.subspace.detach().cpu().double().numpy().tobytes()
    return cell, cell.where.cpu().numpy().tobytes(), span


def _names(sweep: Sweep) -> list[str]:
    """Names as a patching result of the same site has them."""
    named = SiteScores(
        str(sweep.site), sweep.site.component, sweep.axes, sweep.labels, torch.zeros(sweep.shape), 1.0, 0.0
    )
    return [named.name_at(index) for index in itertools.product(*map(range, sweep.shape))]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names told apart by a number where several cells share one (subspaces of one activation)."""
    total, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if total[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def _order(cell: Cell) -> tuple[int, int, int, tuple[int, ...], int]:
    column = int(cell.where.any(0).int().argmax())
    head = -1 if cell.head is None else cell.head
    return cell.layer, ORDER.index(cell.component.removesuffix(LATENTS)), head, cell.neurons or (), column
