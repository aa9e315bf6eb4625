"""What each writer of a graph changes of the residual stream when it carries the replacing value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.blocks import Stack
from interp.patching.wavefront.heads import Columns, HeadChanges
from interp.patching.wavefront.neurons import change_of_units
from interp.patching.wavefront.pairs import PairRun
from interp.patching.wavefront.values import Place
from interp.results import Graph


def written_places(graph: Graph) -> set[Place]:
    """What the writers of a graph are replaced by, as (component, layer)."""
    found: set[Place] = set()
    for writer in graph.writers:
        if writer.kind == "input":
            found.add(("resid_pre", 0))
        elif writer.kind == "head":
            found.add(("z", writer.layer))
        elif writer.kind == "neuron" or graph.units_of(writer.layer) is not None:
            found.add(("mlp_post", writer.layer))
        else:
            found.add(("mlp_out", writer.layer))
    return found


def keeps_table(device: torch.device) -> bool:
    """Whether what writers change is computed for all prompts at once and looked up: on a GPU, where every launch
    costs more than what it saves."""
    return device.type == "cuda"


def n_in_table(graph: Graph) -> int:
    """Writers that such a table has; neurons are told apart by their activations alone."""
    return sum(writer.kind != "neuron" for writer in graph.writers)


@dataclass(frozen=True)
class Sources:
    """Changes to be made, each of one writer in one prompt; sorted by writer, then position and prompt."""

    writer: np.ndarray
    position: np.ndarray
    numbers: Int[Tensor, "part source"]
    """On the device: where the table has each writer, or which neuron it is; and the position."""
    prompts: Int[Tensor, " source"]
    columns: Columns


class EdgeWrites:
    """Changes of the writers of a graph, in one block of prompts."""

    def __init__(self, stack: Stack, run: PairRun, graph: Graph, places: Tensor | None) -> None:
        self.stack = stack
        self.base = run.base
        self.new = run.new
        self.graph = graph
        self.heads = HeadChanges(stack, run.base)
        self.places = None if places is None else places.to(run.read.device)
        self.tabled = keeps_table(run.read.device)
        is_neuron = np.array([writer.kind == "neuron" for writer in graph.writers])
        self.number = np.where(
            is_neuron, [writer.index for writer in graph.writers], (~is_neuron).cumsum() - 1
        )
        """[writer] Where the table has it, or which neuron of its layer it is."""
        self._layer = np.where(is_neuron, [writer.layer for writer in graph.writers], -1)
        self._begin = 0
        """Column before which no writer changes."""

    def first_changes(self, differs_from: Int[Tensor, " prompt"] | None) -> np.ndarray:
        """[writer, position, prompt] First column at which each changes; a number beyond all if none."""
        tokens = self.base.tokens
        column = torch.arange(tokens.shape[1], device=tokens.device)
        beyond = torch.full((), torch.iinfo(torch.int32).max, device=tokens.device)
        differs = torch.cat(self._differences())
        if differs_from is not None:
            differs = differs & (column[None] >= differs_from.to(column.device)[:, None])
        by_place = [
            differs if self.places is None else differs & (self.places == place)
            for place in range(self.graph.n_positions)
        ]
        found = [torch.where(part.any(-1), part.int().argmax(-1), beyond) for part in by_place]
        first = torch.stack(found, dim=1).cpu().numpy()
        self._begin = min(int(first.min()), tokens.shape[1])
        return first

    def _differences(self) -> list[Tensor]:
        """[writer, prompt, pos] Where writers change, of one kind and layer after another."""
        found, last = [], None
        for number, writer in enumerate(self.graph.writers):
            if (writer.kind, writer.layer) == last:
                continue
            last = writer.kind, writer.layer
            component, layer, units = self._source(number)
            unequal = self.new(component, layer) != self.base[component, layer]
            if writer.kind == "head":
                found.append(unequal.any(-1).movedim(-1, 0))
            elif writer.kind == "neuron":
                own = self.graph.units_of(layer)
                assert own is not None
                found.append(unequal[..., torch.tensor(own.indices, device=unequal.device)].movedim(-1, 0))
            else:
                found.append((unequal if units is None else unequal[..., units]).any(-1)[None])
        return found

    def _source(self, number: int) -> tuple[str, int, Tensor | None]:
        """Component and layer of a writer, and which neurons of it, where it is some of them."""
        writer = self.graph.writers[number]
        if writer.kind == "input":
            return "resid_pre", 0, None
        if writer.kind == "head":
            return "z", writer.layer, None
        units = self.graph.units_of(writer.layer)
        if units is None:
            return "mlp_out", writer.layer, None
        own = torch.tensor(units.indices if writer.kind == "mlp" else [writer.index])
        if writer.kind == "mlp":
            own = torch.tensor(sorted(set(range(self.stack.traits.d_mlp)) - set(own.tolist())))
        return "mlp_post", writer.layer, own.to(self.base.tokens.device)

    def make(self, sources: Sources) -> Float[Tensor, "source pos d_model"]:
        """What each source changes at its columns."""
        if self.tabled:
            return self._look_up(sources)
        ends = np.flatnonzero((np.diff(sources.writer) != 0) | (np.diff(sources.position) != 0)) + 1
        parts = []
        for part in np.split(np.arange(len(sources.writer)), ends):
            some = slice(int(part[0]), int(part[-1]) + 1)
            columns = sources.columns if isinstance(sources.columns, slice) else sources.columns[some]
            number, position = int(sources.writer[part[0]]), int(sources.position[part[0]])
            parts.append(self._change(number, position, sources.prompts[some], columns))
        return torch.cat(parts)

    def _change(
        self, number: int, position: int, prompts: Int[Tensor, " row"], columns: Columns
    ) -> Float[Tensor, "row pos d_model"]:
        """What a writer changes at these columns, in some prompts."""
        if isinstance(columns, slice):
            columns = torch.arange(columns.start, columns.stop, device=prompts.device).expand(
                len(prompts), -1
            )
        place = (prompts.repeat_interleave(columns.shape[1]), columns.flatten())
        delta = self._change_at(number, place)
        if self.places is not None:
            delta = delta * (self.places[place] == position)[:, None]
        return delta.view(len(prompts), -1, delta.shape[-1])

    def _change_at(self, number: int, place: tuple[Tensor, Tensor]) -> Float[Tensor, "token d_model"]:
        """What a writer changes at places (prompt, column)."""
        component, layer, units = self._source(number)
        delta = self.new(component, layer)[place] - self.base[component, layer][place]
        writer = self.graph.writers[number]
        if writer.kind == "head":
            own = torch.full_like(place[0], writer.index)[:, None]
            return self.heads.attention_change(layer, place, delta[:, writer.index], own)
        return delta if units is None else change_of_units(self.stack, self.base, layer, place, delta, units)

    @cached_property
    def _table(self) -> Float[Tensor, "writer prompt pos d_model"]:
        """What every writer but single neurons changes, from the first column at which one does."""
        n_prompts, n_columns = self.base.tokens.shape
        device, begin = self.base.tokens.device, self._begin
        prompt, column = torch.arange(n_prompts, device=device), torch.arange(begin, n_columns, device=device)
        place = (prompt.repeat_interleave(len(column)), column.repeat(n_prompts))
        stream = self.base.stream[0]
        table = stream.new_empty(n_in_table(self.graph), n_prompts, n_columns - begin, stream.shape[-1])
        n_heads, whole_layers = self.stack.traits.n_heads, not self.stack.traits.post_norms
        for number, writer in enumerate(self.graph.writers):
            if writer.kind == "neuron" or (writer.kind == "head" and writer.index and whole_layers):
                continue
            slot = int(self.number[number])
            if writer.kind == "head" and whole_layers:
                z, W_O = self._z_change(writer.layer), self.stack.blocks[writer.layer].weights.W_O
                torch.bmm(z, W_O, out=table[slot : slot + n_heads].flatten(1, 2))
            else:
                table[slot] = self._change_at(number, place).view(table.shape[1:])
        return table

    def _z_change(self, layer: int) -> Float[Tensor, "head token d_head"]:
        delta = self.new("z", layer)[:, self._begin :] - self.base["z", layer][:, self._begin :]
        return delta.movedim(2, 0).flatten(1, 2)

    def _look_up(self, sources: Sources) -> Float[Tensor, "source pos d_model"]:
        columns = sources.columns
        if isinstance(columns, slice):
            columns = torch.arange(columns.start, columns.stop, device=sources.prompts.device).expand(
                len(sources.prompts), -1
            )
        layer = self._layer[sources.writer]
        parts = []
        for part in np.split(np.arange(len(layer)), np.flatnonzero(np.diff(layer)) + 1):
            some = slice(int(part[0]), int(part[-1]) + 1)
            given = (sources.numbers[0, some], sources.prompts[some, None], columns[some])
            in_table = layer[part[0]] < 0
            parts.append(
                self._rows_of_table(*given) if in_table else self._neurons(int(layer[part[0]]), *given)
            )
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.places is None:
            return found
        there = self.places[sources.prompts[:, None], columns] == sources.numbers[1, :, None]
        return found * there[:, :, None]

    def _rows_of_table(self, slots: Tensor, prompts: Tensor, columns: Tensor) -> Tensor:
        table = self._table
        _, n_prompts, n_columns, d_model = table.shape
        at = (slots[:, None] * n_prompts + prompts) * n_columns + (columns - self._begin)
        return table.view(-1, d_model).index_select(0, at.flatten()).view(*columns.shape, d_model)

    def _neurons(self, layer: int, neurons: Tensor, prompts: Tensor, columns: Tensor) -> Tensor:
        block, place = self.stack.blocks[layer], (prompts, columns)
        index = (*place, neurons[:, None])
        change = self.new("mlp_post", layer)[index] - self.base["mlp_post", layer][index]
        out = change[..., None] * block.mlp_out.weight[neurons][:, None]
        if not self.stack.traits.post_norms:
            return out
        old = self.base["mlp_o", layer][place]
        return block.finish_mlp(old + out) - block.finish_mlp(old)
