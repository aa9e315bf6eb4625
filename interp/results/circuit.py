"""Circuits: some of a model's edges, how they were found, and what each carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CircuitError
from interp.results.connectivity import keep_connected
from interp.results.graph import LOGITS, Graph
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.storage import write_whole
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Circuit(Record):
    """A set of edges of a graph. Every method that chooses edges returns a new circuit.

    Raises :class:`CircuitError` when arrays are not over the graph's edges.
    """

    graph: Graph
    included: Bool[Tensor, " edge"]
    """Which edges belong to it."""
    how: str
    """How it was chosen, for people: ``top 2 % of edges by size``."""
    provenance: Provenance
    """Of the scores or the search that it comes from."""
    values: Float[Tensor, " edge"] | None = None
    """What each edge of the *graph* carries by the scores it was chosen from (:attr:`EdgeScores.values`)."""

    def __post_init__(self) -> None:
        n = self.graph.n_edges
        for name, tensor in (("included", self.included), ("values", self.values)):
            if tensor is not None and tuple(tensor.shape) != (n,):
                raise CircuitError(
                    f"{name} of a circuit must be [edge={n}]; got shape {list(tensor.shape)}. Was it made for "
                    "another model?"
                )
        if self.included.dtype != torch.bool:
            raise CircuitError(f"included must be true or false for every edge; got {self.included.dtype}.")

    def __len__(self) -> int:
        return self.n_edges

    def __repr__(self) -> str:
        return (
            f"Circuit({self.n_edges} of {self.graph.n_edges} edges, {len(self.nodes)} nodes; {self.how}; "
            f"{self.provenance.summary()})"
        )

    @property
    def n_edges(self) -> int:
        """How many edges belong to it."""
        return int(self.included.sum())

    @cached_property
    def edge_numbers(self) -> np.ndarray:
        """Numbers of its edges."""
        return self.included.cpu().numpy().nonzero()[0]

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of its edges, in the order of the computation."""
        return tuple(self.graph.edge_names(self.edge_numbers))

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that its edges touch, in the order of the computation."""
        graph, numbers = self.graph, self.edge_numbers
        touched = set(graph.edge_writer[numbers].tolist())
        for reader in np.unique(graph.edge_reader[numbers]):
            touched |= set(graph.fed[reader])
        return tuple(graph.nodes[number] for number in sorted(touched))

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of every attention head in it."""
        writers = self.graph.writers
        found = [writers[self.graph.find_node(name)] for name in self.nodes if name != LOGITS]
        return tuple((writer.layer, writer.index) for writer in found if writer.kind == "head")

    def with_included(self, included: Tensor | np.ndarray, how: str) -> Circuit:
        """Another circuit of the same graph and origin."""
        return replace(self, included=torch.as_tensor(included, dtype=torch.bool), how=how)

    def prune(self) -> Circuit:
        """Only the edges that lie on some path of its edges from the input to the logits.

        The others carry nothing that reaches the logits: the metric of a circuit is that of its pruned
        one (see :mod:`interp.results.connectivity`).
        """
        kept = keep_connected(self.graph, self.included.cpu().numpy())
        dropped = self.n_edges - int(kept.sum())
        return self.with_included(kept, self.how + (f"; {dropped} unconnected dropped" if dropped else ""))

    def complement(self) -> Circuit:
        """All other edges of the graph."""
        return self.with_included(~self.included, f"all edges but: {self.how}")

    def with_edges(self, names: Iterable[str]) -> Circuit:
        """This circuit and these edges. Raises :class:`CircuitError` for an edge the graph has not."""
        names = list(names)
        included = self.included.clone()
        included[torch.from_numpy(self.graph.find_edges(names))] = True
        return self.with_included(included, f"{self.how}; {len(names)} named edges added")

    def without_edges(self, names: Iterable[str]) -> Circuit:
        """This circuit less these edges. Raises :class:`CircuitError` for an edge the graph has not."""
        names = list(names)
        included = self.included.clone()
        included[torch.from_numpy(self.graph.find_edges(names))] = False
        return self.with_included(included, f"{self.how}; {len(names)} named edges taken out")

    def without_nodes(self, names: Iterable[str]) -> Circuit:
        """This circuit less all edges from and to these nodes.

        Raises :class:`CircuitError` for a node the graph has not.
        """
        names = list(names)
        gone = edges_at(self.graph, names)
        return self.with_included(
            self.included.cpu().numpy() & ~gone, f"{self.how}; {', '.join(names)} taken out"
        )

    def union(self, other: Circuit) -> Circuit:
        """Edges of either. Raises :class:`CircuitError` for a circuit of another graph."""
        self._check_same(other)
        return self.with_included(self.included | other.included, f"({self.how}) or ({other.how})")

    def intersection(self, other: Circuit) -> Circuit:
        """Edges of both. Raises :class:`CircuitError` for a circuit of another graph."""
        self._check_same(other)
        return self.with_included(self.included & other.included, f"({self.how}) and ({other.how})")

    def difference(self, other: Circuit) -> Circuit:
        """Edges of this one only. Raises :class:`CircuitError` for a circuit of another graph."""
        self._check_same(other)
        return self.with_included(self.included & ~other.included, f"({self.how}) less ({other.how})")

    def _check_same(self, other: Circuit) -> None:
        if not self.graph.same_edges(other.graph):
            raise CircuitError(
                f"the circuits have different graphs ({self.graph.n_edges} and {other.graph.n_edges} edges); "
                "compare circuits of one model, with the same positions and units."
            )

    def to_frame(self) -> pd.DataFrame:
        """One row an edge: edge, source, target, position, value."""
        import pandas as pd

        graph, numbers = self.graph, self.edge_numbers
        positions = [graph.positions[i] for i in graph.edge_position[numbers]] if graph.positions else None
        return pd.DataFrame(
            {
                "edge": list(self.edges),
                "source": [graph.nodes[i] for i in graph.edge_writer[numbers]],
                "target": [graph.reader_names[i] for i in graph.edge_reader[numbers]],
                "position": positions if positions is not None else [None] * len(numbers),
                "value": [float("nan")] * len(numbers)
                if self.values is None
                else self.values[torch.from_numpy(numbers)].tolist(),
            }
        )

    def plot(self, **options: Any) -> go.Figure:
        """The circuit as a graph; see :func:`interp.plots.plot_circuit`."""
        return draw("plot_circuit", self, **options)

    def write_json(self, path: str | Path, *, all_values: bool = True) -> Path:
        """Write as JSON that people and other programs can read; :meth:`read_json` reads it back.

        ``all_values=False`` leaves out the values of edges that are not in the circuit.
        """
        from interp.results.circuit_json import write_circuit

        return write_circuit(self, path, all_values=all_values)

    @classmethod
    def read_json(cls, path: str | Path) -> Circuit:
        """Read what :meth:`write_json` wrote.

        Raises :class:`DataFileError` for a file that is missing, damaged or of another kind.
        """
        from interp.results.circuit_json import read_circuit

        return read_circuit(path)

    def to_dot(self, *, max_edges: int | None = None) -> str:
        """The circuit as text for Graphviz; see :func:`interp.results.circuit_dot.circuit_to_dot`."""
        from interp.results.circuit_dot import circuit_to_dot

        return circuit_to_dot(self, max_edges=max_edges)

    def write_dot(self, path: str | Path, *, max_edges: int | None = None) -> Path:
        """Write :meth:`to_dot` to a file, which ``dot -Tsvg`` draws."""
        return write_whole(path, self.to_dot(max_edges=max_edges).encode("utf-8"))

    def write_circuit_tracer(
        self, path: str | Path, *, prompt: str | None = None, index: bool = False
    ) -> Path:
        """Write a graph file that circuit-tracer's frontend shows.

        See :mod:`interp.results.circuit_tracer` for what the format can and cannot hold. ``index`` lists the
        graph in ``graph-metadata.json`` beside it. Raises :class:`CircuitError` for values that are not finite.
        """
        from interp.results.circuit_tracer import write_circuit_tracer

        return write_circuit_tracer(self, path, prompt=prompt, index=index)


def edges_at(graph: Graph, nodes: Iterable[str]) -> np.ndarray:
    """[edge] Whether an edge begins or ends at one of these nodes; a key/value head ends at all it serves.

    Raises :class:`CircuitError` for a node the graph has not.
    """
    numbers = {graph.find_node(name) for name in nodes}
    reads = np.array([bool(numbers & set(fed)) for fed in graph.fed])
    writes = np.isin(np.arange(len(graph.writers)), sorted(numbers))
    return writes[graph.edge_writer] | reads[graph.edge_reader]
