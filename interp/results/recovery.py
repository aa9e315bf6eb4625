"""How well scores of edges find a circuit that is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CircuitError
from interp.results.graph import INPUT, LOGITS, Graph
from interp.results.provenance import Provenance
from interp.results.ranking import CutQuality, Ranking
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Recovery(Record):
    """A ranking of a graph's edges against those that are known to matter.

    Raises :class:`CircuitError` when arrays are not over the graph's edges, when a magnitude is NaN, and where
    all edges or none are true.
    """

    graph: Graph
    magnitudes: Float[Tensor, " edge"]
    """What edges are ranked by, the largest first."""
    is_true: Bool[Tensor, " edge"]
    provenance: Provenance
    """Of the scores."""

    def __post_init__(self) -> None:
        n = self.graph.n_edges
        for name in ("magnitudes", "is_true"):
            tensor = getattr(self, name)
            if tuple(tensor.shape) != (n,):
                raise CircuitError(f"{name} of edges must be [edge={n}]; got shape {list(tensor.shape)}.")
        missing = int(self.magnitudes.isnan().sum())
        if missing:
            raise CircuitError(f"{missing} of {n} edges have no magnitude (NaN), so they have no rank.")
        n_true = int(self.is_true.sum())
        if not 0 < n_true < n:
            raise CircuitError(
                f"{n_true} of {n} edges are true; a ranking is measured by telling some that are from some that are "
                "not."
            )

    def __repr__(self) -> str:
        return (
            f"Recovery(AUROC {self.auroc:.3f}, average precision {self.average_precision:.3f}; "
            f"{self.edges.n_true} of {self.edges.n} edges are true; {self.provenance.summary()})"
        )

    @cached_property
    def edges(self) -> Ranking:
        """All edges by magnitude."""
        return Ranking(self.magnitudes.double().cpu().numpy(), self.is_true.cpu().numpy())

    @cached_property
    def node_names(self) -> tuple[str, ...]:
        """The nodes that are ranked: all but the input and the logits, which every circuit has."""
        return tuple(name for name in self.graph.nodes if name not in (INPUT, LOGITS))

    @cached_property
    def nodes(self) -> Ranking:
        """Nodes by the largest magnitude of an edge at them; those that a true edge touches are true."""
        scores = _largest_at_nodes(self.graph, self.edges.scores)
        true = _largest_at_nodes(self.graph, self.edges.is_true.astype(np.float64))
        return Ranking(scores[1:-1], true[1:-1] > 0)

    @property
    def auroc(self) -> float:
        """Of edges: the chance that a true one ranks above a false one, ties half."""
        return self.edges.auroc

    @property
    def average_precision(self) -> float:
        """Of edges, over distinct magnitudes."""
        return self.edges.average_precision

    @property
    def at_n_true(self) -> CutQuality:
        """Of as many edges as are true, where precision, recall and F1 are one number."""
        return self.edges.at(self.edges.n_true)

    @property
    def missed(self) -> list[str]:
        """True edges that some false one equals or outranks; none where the ranking is perfect."""
        limit = self.edges.scores[~self.edges.is_true].max()
        return self._names(self.edges.is_true & (self.edges.scores <= limit))

    @property
    def mistaken(self) -> list[str]:
        """False edges that equal or outrank some true one, the largest first."""
        limit = self.edges.scores[self.edges.is_true].min()
        return self._names(~self.edges.is_true & (self.edges.scores >= limit))

    def _names(self, chosen: np.ndarray) -> list[str]:
        return self.graph.edge_names(edge for edge in self.edges.order if chosen[edge])

    def to_frame(self) -> pd.DataFrame:
        """One row an edge, the largest first: edge, magnitude, is_true; precision, recall, f1 of it and all before."""
        import pandas as pd

        edges = self.edges
        return pd.DataFrame(
            {
                "edge": self.graph.edge_names(edges.order),
                "magnitude": edges.scores[edges.order],
                "is_true": edges.is_true[edges.order],
                "precision": edges.precision,
                "recall": edges.recall,
                "f1": edges.f1,
            }
        )

    def to_summary(self) -> pd.DataFrame:
        """A row for edges and one for nodes: n, n_true, auroc, average_precision, f1_at_n_true."""
        import pandas as pd

        rows = []
        for kind, ranking in (("edges", self.edges), ("nodes", self.nodes)):
            defined = ranking.is_defined
            rows.append(
                {
                    "of": kind,
                    "n": ranking.n,
                    "n_true": ranking.n_true,
                    "auroc": ranking.auroc,
                    "average_precision": ranking.average_precision,
                    "f1_at_n_true": ranking.at(ranking.n_true).f1 if defined else float("nan"),
                }
            )
        return pd.DataFrame(rows)

    def plot(self, **options: Any) -> go.Figure:
        """ROC and precision against recall; see :func:`interp.plots.plot_recovery`."""
        return draw("plot_recovery", self, **options)


def _largest_at_nodes(graph: Graph, values: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " node"]:
    """The largest of the values of all edges from or to each node."""
    found = np.zeros(len(graph.nodes))
    np.maximum.at(found, graph.edge_writer, values)
    at_reader = np.zeros(len(graph.readers))
    np.maximum.at(at_reader, graph.edge_reader, values)
    for reader, nodes in enumerate(graph.fed):
        for node in nodes:
            found[node] = max(found[node], at_reader[reader])
    return found
