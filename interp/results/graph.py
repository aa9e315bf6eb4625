"""A transformer as a graph: what writes to the residual stream, what reads from it, and every edge between.

Nodes are ``input`` (token and position embeddings), heads ``a9.h6``, MLPs ``m10`` and ``logits``; units of an MLP
may be nodes of their own, ``m3.n17`` (a neuron) or ``m3.l17`` (a coder's latent). A node *writes* once and
may *read* several times: a head through ``<q>``, ``<k>`` and ``<v>``. Under grouped-query attention keys and
values are read once for each key/value head, ``a9.kv1<k>``. A reader sees every writer before it, and
writers stand in the order of the computation, so the sources of a reader are the first ``reach`` writers:
edges need no list, only numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from interp.errors import CircuitError, suggest_names
from interp.results.record import Record

INPUT = "input"
LOGITS = "logits"

_READER = re.compile(r"^a(\d+)\.(?:h|kv)(\d+)<([qkv])>$")


@dataclass(frozen=True)
class MlpUnits:
    """Units of one MLP that are nodes of their own; what is left of the MLP is one node more."""

    layer: int
    kind: Literal["neuron", "latent"]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Writer:
    """What adds to the residual stream, once."""

    kind: Literal["input", "head", "mlp", "neuron", "latent"]
    layer: int
    """-1 for the input."""
    index: int = 0
    """Of a head, neuron or latent."""

    def __str__(self) -> str:
        return {
            "input": INPUT,
            "head": f"a{self.layer}.h{self.index}",
            "mlp": f"m{self.layer}",
            "neuron": f"m{self.layer}.n{self.index}",
            "latent": f"m{self.layer}.l{self.index}",
        }[self.kind]


@dataclass(frozen=True)
class Reader:
    """What reads the residual stream, once."""

    kind: Literal["q", "k", "v", "mlp", "neuron", "latent", "logits"]
    layer: int
    """The number of layers for the logits."""
    index: int = 0
    """Of a query head, a key/value head, a neuron or a latent."""
    grouped: bool = False
    """Whether a key/value head serves several query heads."""

    def __str__(self) -> str:
        if self.kind in ("q", "k", "v"):
            head = "kv" if self.grouped and self.kind != "q" else "h"
            return f"a{self.layer}.{head}{self.index}<{self.kind}>"
        if self.kind == "logits":
            return LOGITS
        return f"m{self.layer}" + ("" if self.kind == "mlp" else f".{self.kind[0]}{self.index}")


@dataclass(frozen=True)
class Graph(Record):
    """Every node and edge of a model; immutable, and two graphs of the same sizes are equal.

    Built by :func:`interp.build_graph`. Arrays over edges are laid out reader by reader, each reader's
    writers in order and, in a graph with positions, the positions of each innermost.

    Raises :class:`CircuitError` for heads that are no multiple of the key/value heads, and for units that a layer
    has not, or that are named twice.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_mlp: int
    """0 for attention-only models."""
    parallel_blocks: bool = False
    """The MLP of a layer does not see the attention of that layer (GPT-NeoX)."""
    units: tuple[MlpUnits, ...] = ()
    positions: tuple[str, ...] = ()
    """Names of the positions that edges are told apart by: ``"0"``, ``"1"``, ... or a task's labels. Empty:
    all positions together."""
    position_tokens: tuple[str, ...] = ()
    """What stands at each position, for pictures."""

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1 or self.n_heads % self.n_kv_heads:
            raise CircuitError(
                f"a graph has layers, and heads in equal groups; got {self.n_layers} layers, {self.n_heads} heads and "
                f"{self.n_kv_heads} kv heads."
            )
        layers = [unit.layer for unit in self.units]
        if layers != sorted(set(layers)):
            raise CircuitError(f"units are given once a layer, in the order of layers; got layers {layers}.")
        for unit in self.units:
            if not 0 <= unit.layer < self.n_layers or not self.d_mlp:
                raise CircuitError(f"units of MLP {unit.layer}, but the model has no such MLP.")
            if not unit.indices or list(unit.indices) != sorted(set(unit.indices)):
                raise CircuitError(
                    f"units of MLP {unit.layer} must be different rising numbers; got {unit.indices[:8]}."
                )
            if unit.kind == "neuron" and not 0 <= unit.indices[0] <= unit.indices[-1] < self.d_mlp:
                raise CircuitError(
                    f"neurons of MLP {unit.layer} lie in 0..{self.d_mlp - 1}; got {unit.indices[-1]}."
                )
        if len(set(self.positions)) < len(self.positions):
            raise CircuitError(f"names of positions must differ; got {self.positions}.")
        if self.position_tokens and len(self.position_tokens) != len(self.positions):
            raise CircuitError(
                f"{len(self.position_tokens)} tokens for {len(self.positions)} positions; expected one each."
            )

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """In the order of the computation; within a layer heads, units, then the (rest of the) MLP."""
        found = [Writer("input", -1)]
        for layer in range(self.n_layers):
            found += [Writer("head", layer, head) for head in range(self.n_heads)]
            units = self.units_of(layer)
            if units is not None:
                found += [Writer(units.kind, layer, index) for index in units.indices]
            if self._has_rest(layer):
                found.append(Writer("mlp", layer))
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """In the order of the computation; within a layer queries, keys, values, units, then the MLP."""
        grouped = self.n_kv_heads != self.n_heads
        found = []
        for layer in range(self.n_layers):
            found += [Reader("q", layer, head) for head in range(self.n_heads)]
            for kind in ("k", "v"):
                found += [Reader(kind, layer, head, grouped) for head in range(self.n_kv_heads)]
            units = self.units_of(layer)
            if units is not None:
                found += [Reader(units.kind, layer, index) for index in units.indices]
            # what a coder leaves over is an error term: it writes, and nothing is known of what it reads
            if self._has_rest(layer) and (units is None or units.kind == "neuron"):
                found.append(Reader("mlp", layer))
        return (*found, Reader("logits", self.n_layers))

    def units_of(self, layer: int) -> MlpUnits | None:
        """The units of a layer that are nodes, if any."""
        return next((unit for unit in self.units if unit.layer == layer), None)

    def _has_rest(self, layer: int) -> bool:
        units = self.units_of(layer)
        if units is not None and units.kind == "neuron":
            return len(units.indices) < self.d_mlp
        return self.d_mlp > 0

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes: every writer, and ``logits``."""
        return (*map(str, self.writers), LOGITS)

    @cached_property
    def reader_names(self) -> tuple[str, ...]:
        """Names of all readers."""
        return tuple(map(str, self.readers))

    @cached_property
    def reach(self) -> np.ndarray:
        """[reader] How many writers each reader sees: the first so many."""
        layer_of = np.array([writer.layer for writer in self.writers])
        is_head = np.array([writer.kind == "head" for writer in self.writers])
        found = []
        for reader in self.readers:
            before = int((layer_of < reader.layer).sum())
            if reader.kind in ("mlp", "neuron", "latent") and not self.parallel_blocks:
                before += int((is_head & (layer_of == reader.layer)).sum())
            found.append(before)
        return np.array(found)

    @cached_property
    def offsets(self) -> np.ndarray:
        """[reader + 1] The first (writer, reader) pair of each reader; the last entry is their number."""
        return np.r_[0, np.cumsum(self.reach)]

    @property
    def n_positions(self) -> int:
        """How many positions edges are told apart by; 1 when all are taken together."""
        return max(1, len(self.positions))

    @property
    def n_pairs(self) -> int:
        """Pairs of a writer and a reader that sees it."""
        return int(self.offsets[-1])

    @property
    def n_edges(self) -> int:
        """Edges; each pair has one at every position."""
        return self.n_pairs * self.n_positions

    @cached_property
    def edge_writer(self) -> np.ndarray:
        """[edge] Number of the writer."""
        pairs = np.concatenate([np.arange(n, dtype=np.int32) for n in self.reach])
        return np.repeat(pairs, self.n_positions)

    @cached_property
    def edge_reader(self) -> np.ndarray:
        """[edge] Number of the reader."""
        pairs = np.repeat(np.arange(len(self.reach), dtype=np.int32), self.reach)
        return np.repeat(pairs, self.n_positions)

    @cached_property
    def edge_position(self) -> np.ndarray:
        """[edge] Number of the position, 0 where there are none."""
        return np.tile(np.arange(self.n_positions, dtype=np.int32), self.n_pairs)

    @cached_property
    def _writer_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.nodes[:-1])}

    @cached_property
    def _reader_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.reader_names)}

    def edge_number(self, writer: int, reader: int, position: int = 0) -> int:
        """Where an edge stands in arrays over edges."""
        return (int(self.offsets[reader]) + writer) * self.n_positions + position

    def edge_name(self, edge: int) -> str:
        """``a5.h1->a9.h6<q>``, in a graph with positions ``a5.h1->a9.h6<q>@END``."""
        writer = self.nodes[self.edge_writer[edge]]
        name = f"{writer}->{self.reader_names[self.edge_reader[edge]]}"
        return f"{name}@{self.positions[self.edge_position[edge]]}" if self.positions else name

    def edge_names(self, edges: Iterable[int]) -> list[str]:
        """Names of several edges."""
        return [self.edge_name(int(edge)) for edge in edges]

    def find_edge(self, name: str) -> int:
        """The number of an edge by its name.

        Raises :class:`CircuitError` for an edge that this graph has not.
        """
        pair, _, position = name.partition("@")
        writer, arrow, reader = pair.partition("->")
        if not arrow or bool(position) != bool(self.positions):
            like = "a0.h1->a1.h0<k>" + ("@" + self.positions[-1] if self.positions else "")
            raise CircuitError(f"cannot read edge {name!r}; an edge of this graph is written like {like!r}.")
        if reader not in self._reader_numbers:
            near = suggest_names(reader, self.reader_names)
            hint = near or f". {self._near_head(reader)}"
            raise CircuitError(f"edge {name!r}: nothing reads as {reader!r}{hint}")
        if writer not in self._writer_numbers:
            raise CircuitError(
                f"edge {name!r}: no node {writer!r} writes{suggest_names(writer, self.nodes[:-1]) or '.'}"
            )
        source, target = self._writer_numbers[writer], self._reader_numbers[reader]
        if source >= self.reach[target]:
            raise CircuitError(f"edge {name!r}: {writer} does not come before {reader}.")
        if position and position not in self.positions:
            raise CircuitError(f"edge {name!r}: positions are {', '.join(self.positions)}.")
        return self.edge_number(source, target, self.positions.index(position) if position else 0)

    def _near_head(self, reader: str) -> str:
        if _READER.match(reader):
            return f"This graph has {self.n_layers} layers, {self.n_heads} heads, {self.n_kv_heads} kv heads."
        return f"Readers are such as {', '.join(self.reader_names[:2])} and {LOGITS}."

    def find_edges(self, names: Sequence[str]) -> np.ndarray:
        """Numbers of several edges. Raises as :meth:`find_edge`."""
        return np.array([self.find_edge(name) for name in names], dtype=np.int64)

    def find_node(self, name: str) -> int:
        """The number of a node by its name. Raises :class:`CircuitError` for a node that is not here."""
        if name == LOGITS:
            return len(self.nodes) - 1
        if name not in self._writer_numbers:
            raise CircuitError(f"no node {name!r}{suggest_names(name, self.nodes) or '.'}")
        return self._writer_numbers[name]

    @cached_property
    def fed(self) -> tuple[range, ...]:
        """[reader] Numbers of the nodes that each reader feeds: one, or the heads of a key/value head."""
        group = self.n_heads // self.n_kv_heads
        found = []
        for reader in self.readers:
            if reader.kind == "logits":
                found.append(range(len(self.nodes) - 1, len(self.nodes)))
                continue
            if reader.kind in ("q", "k", "v"):
                wide = group if reader.kind != "q" else 1
                first = self._writer_numbers[f"a{reader.layer}.h{reader.index * wide}"]
                found.append(range(first, first + wide))
                continue
            number = self._writer_numbers[str(reader)]
            found.append(range(number, number + 1))
        return tuple(found)

    @cached_property
    def positions_in_order(self) -> bool:
        """Whether positions are columns in their order, so that none is moved to an earlier one."""
        return self.positions == tuple(map(str, range(len(self.positions))))

    def same_edges(self, other: Graph) -> bool:
        """Whether edges of both can be compared number by number; tokens at positions may differ."""
        names = ("n_layers", "n_heads", "n_kv_heads", "parallel_blocks", "units", "positions")
        alike = all(getattr(self, name) == getattr(other, name) for name in names)
        return alike and bool(self.d_mlp) == bool(other.d_mlp)
