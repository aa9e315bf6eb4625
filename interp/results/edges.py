"""Scores of edges: what exact and approximate edge patching return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CircuitError
from interp.results.agreement import MethodAgreement
from interp.results.graph import Graph
from interp.results.provenance import Provenance
from interp.results.record import NOT_SAVED, Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class RankedEdge:
    """One row of :meth:`EdgeScores.top`."""

    name: str
    edge: int
    """Its number in the graph."""
    value: float
    """Share of the gap between clean and corrupted that the edge carries; positive supports the clean answer."""
    effect: float
    """Change of the metric, in its own units."""


@dataclass(frozen=True, eq=False)
class EdgeScores(Record):
    """What every edge alone does to a metric when it carries the other run's value.

    Raises :class:`CircuitError` when arrays are not over the graph's edges.
    """

    graph: Graph
    effects: Float[Tensor, " edge"]
    """Metric with that one edge patched (or the estimate of it) less that of the base run, averaged over
    prompts, in the metric's units. Of the same name as, and unlike, a site's effect it is not normalised."""
    clean: float
    """The metric of the clean run, averaged over prompts; ``corrupted`` likewise."""
    corrupted: float
    provenance: Provenance
    standard_errors: Float[Tensor, " edge"] | None = None
    """Of ``effects``, over prompts; NaN for a single prompt."""
    magnitude: Float[Tensor, " edge"] | None = None
    """What a method ranks by where that is larger than the size of the effect: AtP*'s GradDrop, in the metric's
    units. It is no estimate of the effect."""
    gaps: dict[str, float] = field(default_factory=dict)
    """Completeness gaps of integrated gradients: at each cut, the sum of its edges' effects less the true change
    of the metric, in the metric's units."""
    exactly: Callable[..., MethodAgreement] | None = field(default=None, repr=False, metadata=NOT_SAVED)
    """Exact patching of some of the same edges, for :meth:`verify`; lost when saved."""

    def __post_init__(self) -> None:
        n = self.graph.n_edges
        for name in ("effects", "standard_errors", "magnitude"):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != (n,):
                raise CircuitError(f"{name} of edges must be [edge={n}]; got shape {list(tensor.shape)}.")

    @property
    def direction(self) -> str:
        """``noise``: corrupted values into the clean run; ``denoise``: clean values into the corrupted run."""
        return self.provenance.direction or "noise"

    @property
    def base(self) -> float:
        """The metric of the run that is patched."""
        return self.corrupted if self.direction == "denoise" else self.clean

    @property
    def raw(self) -> Float[Tensor, " edge"]:
        """The metric after patching."""
        return self.effects + self.base

    @property
    def values(self) -> Float[Tensor, " edge"]:
        """Share of the gap between clean and corrupted metric that each edge carries.

        Positive: the edge supports the clean answer, whichever the direction (a noised edge lowers the metric
        then, a denoised one raises it). NaN when both baselines are equal.
        """
        gap = self.clean - self.corrupted
        if gap == 0:
            return torch.full_like(self.effects, float("nan"))
        return self.effects / (gap if self.direction == "denoise" else -gap)

    @property
    def magnitudes(self) -> Float[Tensor, " edge"]:
        """What edges are ranked by: the size of the effect, or the method's own magnitude where larger."""
        size = self.effects.abs()
        return size if self.magnitude is None else torch.maximum(size, self.magnitude)

    def node_values(self) -> Float[Tensor, "node position"]:
        """The sum of :attr:`values` over the edges that leave each node, in the order of ``graph.nodes``.

        For gradient methods this is the node's own attribution score; ``logits`` has none and gets 0.
        """
        graph = self.graph
        number = torch.from_numpy(graph.edge_writer.astype("int64"))
        place = torch.from_numpy(graph.edge_position.astype("int64"))
        found = torch.zeros(len(graph.nodes) * graph.n_positions, dtype=torch.float64)
        found.index_add_(0, number * graph.n_positions + place, self.values.double().cpu())
        return found.view(len(graph.nodes), -1).to(self.effects.dtype)

    def top(self, k: int = 10) -> list[RankedEdge]:
        """The ``k`` edges of the largest magnitude."""
        order = _ranking(self.magnitudes)[:k]
        values = self.values
        return [
            RankedEdge(self.graph.edge_name(edge), edge, float(values[edge]), float(self.effects[edge]))
            for edge in order.tolist()
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row an edge, the largest magnitude first: edge, source, target, position, value, effect, error."""
        import pandas as pd

        graph, order = self.graph, _ranking(self.magnitudes)
        numbers = order.cpu().numpy()
        place = [graph.positions[i] for i in graph.edge_position[numbers]] if graph.positions else None
        errors = self.standard_errors
        return pd.DataFrame(
            {
                "edge": graph.edge_names(numbers),
                "source": [graph.nodes[i] for i in graph.edge_writer[numbers]],
                "target": [graph.reader_names[i] for i in graph.edge_reader[numbers]],
                "position": place if place is not None else [None] * len(numbers),
                "value": self.values[order].tolist(),
                "effect": self.effects[order].tolist(),
                "standard_error": float("nan") if errors is None else errors[order].tolist(),
            }
        )

    def plot(self, **options: Any) -> go.Figure:
        """Scores of all edges, readers against writers; see :func:`interp.plots.plot_edge_scores`."""
        return draw("plot_edge_scores", self, **options)

    def verify(self, top: int | None = 20, sample: int = 20, **options: Any) -> MethodAgreement:
        """Compare with exact patching of the ``top`` edges and of a random ``sample`` of the others.

        Options are those of :func:`interp.verify_edges`, which also checks scores read from a file.
        Raises :class:`CircuitError` for exact scores and for scores that were saved and loaded.
        """
        if self.exactly is None:
            why = "are exact" if self.provenance.method == "exact" else "were loaded from a file"
            raise CircuitError(
                f"these scores {why}; use interp.verify_edges(model, task, scores) for estimates from a file."
            )
        return self.exactly(top=top, sample=sample, **options)


def _ranking(magnitudes: Tensor) -> Tensor:
    """Numbers of edges, the largest first; equal ones in their order, NaN last."""
    return torch.where(magnitudes.isnan(), -1.0, magnitudes).argsort(descending=True, stable=True)
