"""What knocking out the circuit of one task does to another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ACTS = ("knocked_out", "kept")
"""What is done with a circuit: it alone is ablated, or everything but it."""


@dataclass(frozen=True, eq=False)
class CrossTaskAblation(Record):
    """Performance on every task with the circuit of every task knocked out, and with it alone kept.

    Performance is normalised: 1 = the whole model, 0 = everything ablated. The first axis of every table
    is what was done (``ACTS``). Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "performance": ("act", "circuit", "task"),
        "low": ("act", "circuit", "task"),
        "high": ("act", "circuit", "task"),
        "random": ("act", "circuit", "task", "draw"),
        "full": ("task",),
        "empty": ("task",),
    }

    circuits: tuple[str, ...]
    tasks: tuple[str, ...]
    level: str
    """What was ablated: ``edges``, or ``heads``."""
    sizes: tuple[int, ...]
    """Edges, or heads, of every circuit."""
    n_items: int
    """Edges, or heads, of the model."""
    performance: Float[Tensor, "act circuit task"]
    low: Float[Tensor, "act circuit task"]
    """Ends of bootstrap intervals over prompts."""
    high: Float[Tensor, "act circuit task"]
    random: Float[Tensor, "act circuit task draw"]
    """The same of random circuits, each with as many edges (or heads) of every stratum as the task's circuit."""
    full: Float[Tensor, "task"]
    """The whole model's metric, averaged over prompts, in the metric's units."""
    empty: Float[Tensor, "task"]
    """The metric with everything ablated."""
    metrics: tuple[str, ...]
    """Of every task."""
    n_prompts: tuple[int, ...]
    confidence: float
    provenance: Provenance
    scores: dict[str, Float[Tensor, "act circuit prompt"]]
    """The metric of every prompt, a table a task, in the metric's units."""

    def __post_init__(self) -> None:
        counts = (("sizes", len(self.sizes), self.circuits), ("metrics", len(self.metrics), self.tasks))
        for name, n, names in (*counts, ("n_prompts", len(self.n_prompts), self.tasks)):
            if n != len(names) or not names:
                raise RecordError(f"CrossTaskAblation.{name} has {n} entries for {names}; expected one each.")
        self._check_axes(act=len(ACTS), circuit=len(self.circuits), task=len(self.tasks))
        if tuple(self.scores) != self.tasks:
            raise RecordError(
                f"CrossTaskAblation.scores are of {list(self.scores)}; expected {list(self.tasks)}."
            )

    @property
    def knocked_out(self) -> Float[Tensor, "circuit task"]:
        """Performance with every circuit knocked out: low where the task needs what the circuit has."""
        return self.performance[ACTS.index("knocked_out")]

    @property
    def kept(self) -> Float[Tensor, "circuit task"]:
        """Performance with the circuit alone: high where it has what the task needs."""
        return self.performance[ACTS.index("kept")]

    @property
    def random_mean(self) -> Float[Tensor, "act circuit task"]:
        """Mean over random circuits; NaN where none was drawn."""
        return self.random.mean(-1)

    @property
    def p_values(self) -> Float[Tensor, "act circuit task"]:
        """Share of random circuits that do as much, the circuit itself counted with them.

        As much damage where a circuit is knocked out, as much performance where it is kept; one-sided, at
        least 1 / (draws + 1), not corrected for many cells. NaN where performance is, or no circuit was drawn.
        """
        own = self.performance[..., None]
        as_much = torch.stack([self.random[0] <= own[0], self.random[1] >= own[1]]).sum(-1)
        n = self.random.shape[-1]
        found = (as_much + 1) / (n + 1)
        undefined = self.performance.isnan() | self.random.isnan().any(-1)
        return torch.where(undefined, torch.nan, found) if n else torch.full_like(found, torch.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row a circuit, task and act: performance with its interval, random circuits, p-value."""
        import pandas as pd

        p_values, mean = self.p_values, self.random_mean
        rows = []
        for (i, circuit), (j, task), (a, act) in itertools.product(
            enumerate(self.circuits), enumerate(self.tasks), enumerate(ACTS)
        ):
            rows.append(
                {
                    "circuit": circuit,
                    "task": task,
                    "act": act,
                    "size": self.sizes[i],
                    "performance": float(self.performance[a, i, j]),
                    "low": float(self.low[a, i, j]),
                    "high": float(self.high[a, i, j]),
                    "random": float(mean[a, i, j]),
                    "p_value": float(p_values[a, i, j]),
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Circuits against tasks, knocked out and kept (``interp.plots.plot_cross_ablation``)."""
        return draw("plot_cross_ablation", self)
