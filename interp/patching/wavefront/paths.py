"""Path patching in flight: from a changed sender along direct paths to receivers, and on from there.

Two passes over the same rows. In the first, everything between sender and receivers is frozen at
the base run, so a change of the residual stream is carried on unaltered (or through recomputed
MLPs, token by token) and what the receivers make of it is recorded. In the second, rows begin at
the first receiver with the base stream, the recorded values are written there, and all else runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.blocks import Stack, Wave, attend, run_mlp
from interp.models.traits import Traits
from interp.patching.cells import Cell
from interp.patching.wavefront.cells import CellTable
from interp.patching.wavefront.flights import CellFlights, Launch
from interp.patching.wavefront.heads import base_stream
from interp.patching.wavefront.plan import RowPlan
from interp.patching.wavefront.values import Place

RECEIVERS = ("resid_pre", "q", "k", "v", "mlp_pre", "mlp_pre_linear", "resid_post")
"""What can receive along a path: whatever is read straight from the residual stream."""


@dataclass(frozen=True)
class Paths:
    """Where the direct paths of every sender end."""

    receivers: tuple[Cell, ...]
    """``resid_post`` stands among them for the last layer only; elsewhere it is the next resid_pre."""
    through_mlps: bool = False
    """Whether MLPs on the way are recomputed (Wang et al. 2023) or frozen like heads."""


def read_point(cell: Cell, traits: Traits) -> int:
    """Where a receiver reads the residual stream, on the scale of entry points."""
    if cell.component == "resid_post":
        return 2 * cell.layer + 2
    before_mlp = cell.component.startswith("mlp") and not traits.parallel_blocks
    return 2 * cell.layer + before_mlp


def path_needs(paths: Paths, stack: Stack) -> set[Place]:
    """Activations of the base run that carrying a change needs."""
    layers = range(stack.traits.n_layers)
    found = {("mlp_out", layer) for layer in layers if paths.through_mlps and stack.traits.d_mlp}
    if stack.traits.d_mlp and not stack.traits.parallel_blocks:
        found |= {("resid_mid", layer) for layer in layers}
    return found


def recorded_numbers(paths: Paths, traits: Traits) -> int:
    """Numbers that are recorded for one token of one row."""
    sizes = {
        "q": traits.n_heads * traits.d_head,
        "k": traits.n_kv_heads * traits.d_head,
        "v": traits.n_kv_heads * traits.d_head,
        "mlp_pre": traits.d_mlp,
        "mlp_pre_linear": traits.d_mlp,
    }
    places = {(cell.component, cell.layer) for cell in paths.receivers}
    return sum(sizes.get(component, traits.d_model) for component, _ in places)


def reachable_rows(plan: RowPlan, paths: Paths, traits: Traits) -> RowPlan:
    """Rows whose sender comes before some receiver; the others are the base run."""
    last = max(read_point(cell, traits) for cell in paths.receivers)
    return plan.select(np.flatnonzero(plan.entry <= last))


Recorded = dict[tuple[str, int, int], Tensor]
"""What receivers made of carried streams: (component, layer, wave) -> [row, pos, ...]."""


class PathFlights(CellFlights):
    """Runs each row of a plan of senders along its paths, then from its receivers on."""

    def __init__(self, paths: Paths, *given: Any) -> None:
        super().__init__(*given)
        self.paths = paths
        self.receivers = CellTable([paths.receivers], self.cells.device, self.cells.prompts)
        self.points = [read_point(cell, self.stack.traits) for cell in paths.receivers]

    def run(self, rows: np.ndarray) -> tuple[np.ndarray, Float[Tensor, "row k d_model"]]:
        """See :meth:`Flights.run`."""
        launches = self._launches(rows)
        recorded: Recorded = {}
        self._carry(launches, recorded)
        again = self._relaunch(launches)
        self._second_pass(again, recorded)
        order = np.concatenate([launch.rows for launch in again])
        return order, torch.cat([self._finish(launch.wave) for launch in again])

    def _carry(self, launches: Sequence[Launch], recorded: Recorded) -> None:
        """The first pass: changes of the stream from each sender to every receiver."""
        stack, points = self.stack, set(self.points)
        first, last = min(int(self.plan.entry[launch.rows].min()) for launch in launches), max(points)
        for point in range(first, last + 1):
            layer, phase = divmod(point, 2)
            if phase and (stack.traits.parallel_blocks or not stack.traits.d_mlp):
                self._pass_mlp(launches, layer, point - 1)
                continue
            self._begin(launches, point)
            for launch in launches:
                if launch.wave.n_rows:
                    self._record(launch.wave, point, recorded)
            if phase:
                self._pass_mlp(launches, layer, point)
            elif point < 2 * stack.traits.n_layers:
                self._pass_attention(launches, layer)

    def _pass_attention(self, launches: Sequence[Launch], layer: int) -> None:
        if self.stack.traits.parallel_blocks or not self.stack.traits.d_mlp:
            return
        for wave in (launch.wave for launch in launches):
            change = wave.resid - wave.take(self.base.stream[layer])
            wave.resid = wave.take(self.base["resid_mid", layer]) + change

    def _pass_mlp(self, launches: Sequence[Launch], layer: int, point: int) -> None:
        """From before an MLP to the next layer, the attention of a parallel block included."""
        block = self.stack.blocks[layer]
        for wave in (launch.wave for launch in launches):
            here = base_stream(self.base, point, wave.prompts, slice(wave.start, wave.stop))
            change = wave.resid - here
            if self.paths.through_mlps and block.has_mlp:
                x = block.normalise(wave.resid, block.weights.ln2)
                out = block.finish_mlp(block.mlp(x.flatten(0, 1))).view_as(wave.resid)
                change = change + (out - wave.take(self.base["mlp_out", layer]))
            wave.resid = wave.take(self.base.stream[layer + 1]) + change

    def _record(self, wave: Wave, point: int, recorded: Recorded) -> None:
        """What the receivers that read here make of the carried streams."""
        places = {
            (cell.component, cell.layer)
            for cell, where in zip(self.paths.receivers, self.points, strict=True)
            if where == point
        }
        for component, layer in places:
            recorded[component, layer, wave.index] = self._receive(component, layer, wave.resid)

    def _receive(self, component: str, layer: int, resid: Tensor) -> Tensor:
        if component in ("resid_pre", "resid_post"):
            return resid.clone()
        block = self.stack.blocks[layer]
        norm = block.weights.ln2 if component.startswith("mlp") else block.weights.ln1
        x = block.normalise(resid, norm).flatten(0, 1)
        if component.startswith("mlp"):
            gated = block.gate is not None and component == "mlp_pre"
            linear = block.gate if gated else block.mlp_in
            assert linear is not None
            return linear(x).unflatten(0, resid.shape[:2])
        maps = {"q": block.queries, "k": block.keys, "v": block.values}
        n_heads = block.traits.n_heads if component == "q" else block.traits.n_kv_heads
        return maps[component](x).unflatten(0, resid.shape[:2]).unflatten(-1, (n_heads, -1))

    def _relaunch(self, launches: Sequence[Launch]) -> list[Launch]:
        """The same waves and rows, each row beginning with the base stream at its first receiver."""
        points = np.array(sorted(set(self.points)))
        again = []
        for launch in launches:
            wave, entry = launch.wave, self.plan.entry[launch.rows]
            first = points[np.searchsorted(points, entry)] // 2 * 2
            order = np.argsort(first, kind="stable")
            fresh = Wave(wave.index, wave.start, wave.stop, wave.prompts[:0], wave.resid[:0])
            origin = self._to_device(order)
            again.append(Launch(fresh, launch.rows[order], first[order], launch.prompts[origin], origin))
        return again

    def _second_pass(self, launches: Sequence[Launch], recorded: Recorded) -> None:
        n_layers = self.stack.traits.n_layers
        editor = _Receiver(self.receivers, recorded, {launch.wave.index: launch for launch in launches})
        for layer in range(min(int(launch.entry.min()) for launch in launches) // 2, n_layers + 1):
            self._enter(launches, 2 * layer)
            waves = [launch.wave for launch in launches if launch.wave.n_rows]
            if layer == n_layers:
                for wave in waves:
                    if editor.wants("resid_post", n_layers - 1):
                        wave.resid = editor.see("resid_post", n_layers - 1, wave, wave.resid)
                return
            last = layer == n_layers - 1
            # a receiver that is the final stream is written there, at all of its columns
            narrow = self.read if last and not editor.wants("resid_post", layer) else None
            attend(self.stack, layer, waves, self.base, editor, narrow)
            run_mlp(self.stack, layer, waves, editor)

    def _enter(self, launches: Sequence[Launch], entry: int) -> None:
        for launch in launches:
            mine = launch.entry == entry
            if not mine.any():
                continue
            # rows are sorted by where they enter
            first = int(mine.argmax())
            prompts = launch.prompts[first : first + int(mine.sum())]
            columns = slice(launch.wave.start, launch.wave.stop)
            if launch.wave.n_rows == 0:
                launch.wave.columns = columns
            launch.wave.append(prompts, base_stream(self.base, entry, prompts, columns))


class _Receiver:
    """A watcher that writes recorded values into the receivers."""

    def __init__(self, cells: CellTable, recorded: Recorded, launches: dict[int, Launch]) -> None:
        self.cells = cells
        self.recorded = recorded
        self.launches = launches
        self.places = {(cell.component, cell.layer) for cell in cells.cells}

    def wants(self, component: str, layer: int) -> bool:
        """Whether a receiver is there."""
        return (component, layer) in self.places

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        """``value`` with the receivers' parts replaced in every row."""
        value = value.contiguous()
        found = self.recorded.get((component, layer, wave.index))
        if found is None:
            return value
        assert wave.columns is not None
        origin = self.launches[wave.index].origin
        assert origin is not None
        # rows that had not begun when the receiver read the stream are later ones: they send it nothing
        sent = origin[: wave.n_rows] < len(found)
        rows = sent.nonzero()[:, 0]
        columns = wave.columns if isinstance(wave.columns, slice) else wave.columns[rows]
        for number, cell in enumerate(self.cells.cells):
            if (cell.component, cell.layer) != (component, layer):
                continue
            tokens = self.cells.tokens(torch.full_like(rows, number), wave.prompts[rows], columns)
            row = rows[tokens.row]
            place = (origin[row], tokens.column - wave.start)
            if cell.head is not None:
                value[row, tokens.at, cell.head] = found[(*place, cell.head)]
            elif cell.neurons is not None:
                chosen = torch.tensor(cell.neurons, device=value.device)
                value[row[:, None], tokens.at[:, None], chosen] = found[place][:, chosen]
            else:
                value[row, tokens.at] = found[place]
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        """Results of heads receive nothing."""
        return o
