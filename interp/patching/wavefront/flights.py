"""Carrying the rows of one chunk through the model, from where each begins to the metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import BLIND, Stack, Trace, Watcher, Wave, attend, run_mlp
from interp.patching.wavefront.births import Births
from interp.patching.wavefront.cells import CellTable
from interp.patching.wavefront.edits import Editor
from interp.patching.wavefront.heads import base_stream
from interp.patching.wavefront.plan import FULL, RowPlan
from interp.patching.wavefront.values import Values


@dataclass
class Launch:
    """The rows of a chunk that begin at one column, in the order in which they enter."""

    wave: Wave
    rows: np.ndarray
    entry: np.ndarray
    """Where each row enters."""
    origin: Int[Tensor, " row"] | None = None
    """Place of each row in an earlier launch of the same rows."""


class Flights(ABC):
    """Runs rows of a plan and gives their final residual streams at the columns that are read."""

    def __init__(
        self,
        stack: Stack,
        base: Trace,
        plan: RowPlan,
        read: Int[Tensor, "prompt k"],
        stop: int | None = None,
    ) -> None:
        self.stack = stack
        self.base = base
        self.plan = plan
        self.read = read
        self.stop = stop
        """Column before which keys are seen; ``None`` is just after the last one that is read."""

    @abstractmethod
    def first_stream(
        self, rows: np.ndarray, prompts: Tensor, columns: Tensor | slice, entry: int, stop: int
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream with which rows of one first column begin at their entry point."""

    def watcher(self, launches: Sequence[Launch]) -> Watcher:
        """What is written into rows in flight."""
        return BLIND

    def run(self, rows: np.ndarray) -> tuple[np.ndarray, Float[Tensor, "row k d_model"]]:
        """The same rows in the order of the result, and their streams at the columns that are read.

        A column before a row's first one is the base run's; what stands there in the result is not.
        """
        launches = self._launches(rows)
        watcher = self.watcher(launches)
        n_layers = self.stack.traits.n_layers
        for layer in range(int(self.plan.entry[rows].min()) // 2, n_layers):
            self._begin(launches, 2 * layer)
            waves = [launch.wave for launch in launches if launch.wave.n_rows]
            last = layer == n_layers - 1
            attend(self.stack, layer, waves, self.base, watcher, self.read if last else None)
            self._begin(launches, 2 * layer + 1, narrowed=last)
            waves = [launch.wave for launch in launches if launch.wave.n_rows]
            run_mlp(self.stack, layer, waves, watcher)
        self._begin(launches, 2 * n_layers, narrowed=True)
        order = np.concatenate([launch.rows for launch in launches])
        return order, torch.cat([self._finish(launch.wave) for launch in launches])

    def _launches(self, rows: np.ndarray) -> list[Launch]:
        plan, like = self.plan, self.base.stream[0]
        stop = self.stop
        if stop is None:
            stop = int(self.read[torch.from_numpy(np.unique(plan.prompt[rows]))].max()) + 1
        found: list[Launch] = []
        for start in np.unique(plan.start[rows]):
            mine = rows[plan.start[rows] == start]
            mine = mine[np.argsort(plan.entry[mine], kind="stable")]
            empty = like.new_empty(0, stop - int(start), like.shape[-1])
            none = torch.empty(0, dtype=torch.long, device=like.device)
            found.append(Launch(Wave(len(found), int(start), stop, none, empty), mine, plan.entry[mine]))
        return found

    def _to_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.read.device)

    def _begin(self, launches: Sequence[Launch], entry: int, narrowed: bool = False) -> None:
        """Put the rows that enter here in flight."""
        for launch in launches:
            rows = launch.rows[launch.entry == entry]
            if not len(rows):
                continue
            prompts = self._to_device(self.plan.prompt[rows])
            wave = launch.wave
            columns: Tensor | slice = slice(wave.start, wave.stop)
            if narrowed and self.read.shape[1] < wave.stop - wave.start:
                columns = self.read[prompts].clamp(wave.start, wave.stop - 1)
            resid = self.first_stream(rows, prompts, columns, entry, wave.stop)
            if isinstance(columns, slice):
                wave.append(prompts, resid)
                continue
            if not wave.n_rows:
                wave.resid = resid[:0]
                wave.columns = columns[:0]
            assert isinstance(wave.columns, Tensor)
            wave.columns = torch.cat([wave.columns, columns])
            wave.append(prompts, resid)

    def _finish(self, wave: Wave) -> Float[Tensor, "row k d_model"]:
        """The streams at the columns that are read, from however many columns the wave holds."""
        if isinstance(wave.columns, Tensor):
            return wave.resid
        at = self.read[wave.prompts].clamp(wave.start, wave.stop - 1) - wave.start
        return wave.resid.gather(1, at[:, :, None].expand(-1, -1, wave.resid.shape[-1]))


class CellFlights(Flights):
    """Rows in which cells are patched."""

    def __init__(
        self,
        stack: Stack,
        base: Trace,
        new: Values,
        cells: CellTable,
        plan: RowPlan,
        read: Int[Tensor, "prompt k"],
        stop: int | None = None,
    ) -> None:
        super().__init__(stack, base, plan, read, stop)
        self.new = new
        self.cells = cells
        self.births = Births(stack, base, new, cells)

    def watcher(self, launches: Sequence[Launch]) -> Watcher:
        """See :meth:`Flights.watcher`."""
        if not self.plan.later:
            return BLIND
        wave_of = np.full(len(self.plan), -1)
        place = np.zeros(len(self.plan), dtype=np.int64)
        for launch in launches:
            wave_of[launch.rows] = launch.wave.index
            place[launch.rows] = np.arange(len(launch.rows))
        pending: dict[tuple[str, int], Mapping[int, tuple[Tensor, Tensor]]] = {}
        for key, (rows, cells) in self.plan.later.items():
            waves = wave_of[rows]
            pending[key] = {
                int(wave): (
                    self._to_device(place[rows[waves == wave]]),
                    self._to_device(cells[waves == wave]),
                )
                for wave in np.unique(waves[waves >= 0])
            }
        return Editor(self.stack, self.base, self.new, self.cells, {k: v for k, v in pending.items() if v})

    def first_stream(
        self, rows: np.ndarray, prompts: Tensor, columns: Tensor | slice, entry: int, stop: int
    ) -> Float[Tensor, "row pos d_model"]:
        """See :meth:`Flights.first_stream`."""
        places: dict[tuple[str, int] | None, list[int]] = {}
        for i, number in enumerate(self.plan.birth[rows].tolist()):
            cell = None if number == FULL else self.cells.cells[number]
            places.setdefault(None if cell is None else (cell.component, cell.layer), []).append(i)
        made: list[tuple[Tensor, Tensor]] = []
        for place, numbers in places.items():
            at = self._to_device(np.array(numbers))
            mine = columns if isinstance(columns, slice) else columns[at]
            if place is None:
                made.append((at, base_stream(self.base, entry, prompts[at], mine)))
                continue
            cells = self._to_device(self.plan.birth[rows[numbers]])
            made.append((at, self.births.make(*place, cells, prompts[at], mine, stop)))
        if len(made) == 1:
            return made[0][1]
        resid = torch.empty(len(rows), *made[0][1].shape[1:], dtype=made[0][1].dtype, device=prompts.device)
        for at, value in made:
            resid[at] = value
        return resid
