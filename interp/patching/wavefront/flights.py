"""Carrying the rows of one chunk through the model, from where each begins to the metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.kernels.graphs import GraphCache
from interp.kernels.prefix_attention import prefix_kernel_runs
from interp.models.blocks import BLIND, Stack, Trace, Watcher, Wave, attend, run_mlp
from interp.patching.wavefront.births import Births
from interp.patching.wavefront.cells import CellTable
from interp.patching.wavefront.edits import Editor
from interp.patching.wavefront.injections import Newborn
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.transfers import send_numbers
from interp.patching.wavefront.values import Values

ATTENTION, MLP = 1, 2
"""Parts of a layer."""


@dataclass
class Launch:
    """The rows of a chunk that begin at one column, in the order in which they enter."""

    wave: Wave
    rows: np.ndarray
    entry: np.ndarray
    """Where each row enters."""
    prompts: Int[Tensor, " row"]
    """The prompt of each row, on the model's device."""
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
        self.graphs: GraphCache | None = None
        """Where layers are replayed; it may live no longer than the base run."""
        self._last_read = read.max(dim=1).values.cpu().numpy()

    @abstractmethod
    def first_stream(
        self, rows: np.ndarray, prompts: Tensor, columns: Tensor | slice, entry: int, stop: int
    ) -> Newborn:
        """The residual stream with which rows of one first column begin at their entry point."""

    @property
    def is_recordable(self) -> bool:
        """Whether a layer is launched without a look at the device: its attention is one kernel."""
        traits = self.stack.traits
        return prefix_kernel_runs(self.base.keys[0], traits.n_heads, traits.n_kv_heads)

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
            if any(np.any(launch.entry == 2 * layer + 1) for launch in launches):
                self._run_layer(launches, layer, watcher, ATTENTION)
                self._begin(launches, 2 * layer + 1, narrowed=layer == n_layers - 1)
                self._run_layer(launches, layer, watcher, MLP)
            else:
                self._run_layer(launches, layer, watcher, ATTENTION | MLP)
        self._begin(launches, 2 * n_layers, narrowed=True)
        order = np.concatenate([launch.rows for launch in launches])
        return order, torch.cat([self._finish(launch.wave) for launch in launches])

    def _run_layer(self, launches: Sequence[Launch], layer: int, watcher: Watcher, parts: int) -> None:
        """Carry all rows in flight through attention or MLP of a layer, or both."""
        flying = [launch for launch in launches if launch.wave.n_rows]
        narrow = self.read if layer == self.stack.traits.n_layers - 1 else None

        def run(waves: list[Wave]) -> list[Wave]:
            if parts & ATTENTION:
                attend(self.stack, layer, waves, self.base, watcher, narrow)
            if parts & MLP:
                run_mlp(self.stack, layer, waves, watcher)
            return waves

        waves = [launch.wave for launch in flying]
        if not waves:
            return
        if self.graphs is not None and watcher is BLIND:
            waves = self.graphs.run((layer, parts), run, waves)
        else:
            waves = run(waves)
        for launch, wave in zip(flying, waves, strict=True):
            launch.wave = wave

    def _launches(self, rows: np.ndarray) -> list[Launch]:
        plan, like = self.plan, self.base.stream[0]
        stop = self.stop
        if stop is None:
            stop = int(self._last_read[plan.prompt[rows]].max()) + 1
        order = rows[np.lexsort((plan.entry[rows], plan.start[rows]))]
        starts, first = np.unique(plan.start[order], return_index=True)
        prompts = self._to_device(plan.prompt[order]).tensor_split(first[1:].tolist())
        found: list[Launch] = []
        for start, mine, own in zip(starts.tolist(), np.split(order, first[1:]), prompts, strict=True):
            empty = like.new_empty(0, stop - start, like.shape[-1])
            wave = Wave(len(found), start, stop, own[:0], empty)
            found.append(Launch(wave, mine, plan.entry[mine], own))
        return found

    def _to_device(self, numbers: np.ndarray) -> Tensor:
        """A copy on the model's device, for which a GPU is not waited for."""
        return send_numbers(numbers, self.read.device)

    def _begin(self, launches: Sequence[Launch], entry: int, narrowed: bool = False) -> None:
        """Put the rows that enter here in flight."""
        for launch in launches:
            first, end = np.searchsorted(launch.entry, [entry, entry + 1]).tolist()
            if first == end:
                continue
            rows, prompts = launch.rows[first:end], launch.prompts[first:end]
            wave = launch.wave
            columns: Tensor | slice = slice(wave.start, wave.stop)
            if narrowed and self.read.shape[1] < wave.stop - wave.start:
                columns = self.read[prompts].clamp(wave.start, wave.stop - 1)
            born = self.first_stream(rows, prompts, columns, entry, wave.stop)
            if isinstance(columns, slice):
                wave.append(prompts, born.resid, born.normed)
                continue
            if not wave.n_rows:
                wave.resid = born.resid[:0]
                wave.columns = columns[:0]
            assert isinstance(wave.columns, Tensor)
            wave.columns = torch.cat([wave.columns, columns])
            wave.append(prompts, born.resid, born.normed)

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
        by_place = cells.by_place()
        self._places = list(by_place)
        self._place_of_cell = np.full(len(cells.cells) + 1, len(by_place))
        for place, numbers in enumerate(by_place.values()):
            self._place_of_cell[numbers] = place

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
    ) -> Newborn:
        """See :meth:`Flights.first_stream`."""
        births = self.plan.birth[rows]
        # FULL is the last of them
        of_row = self._place_of_cell[births]
        present, first = np.unique(of_row, return_index=True)
        if len(present) == 1:
            return self._begin_at(int(present[0]), births, prompts, columns, entry, stop)
        made: list[tuple[Tensor, Newborn]] = []
        for place in present[np.argsort(first)].tolist():
            numbers = np.flatnonzero(of_row == place)
            at = self._to_device(numbers)
            mine = columns if isinstance(columns, slice) else columns[at]
            made.append((at, self._begin_at(place, births[numbers], prompts[at], mine, entry, stop)))
        return Newborn.join(made)

    def _begin_at(
        self, place: int, births: np.ndarray, prompts: Tensor, columns: Tensor | slice, entry: int, stop: int
    ) -> Newborn:
        """The streams of rows that begin with a cell of one component and layer, or with none."""
        if place == len(self._places):
            return self.births.begin(entry, prompts, columns)
        return self.births.make(*self._places[place], self._to_device(births), prompts, columns, stop)
