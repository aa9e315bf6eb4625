"""What is left of a circuit, and of the model, when parts of the circuit are knocked out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CircuitError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_NO_GAP = "{} is undefined: the metric of the model is that of everything ablated"
KINDS = ("nothing", "single", "random", "greedy", "group")


@dataclass(frozen=True)
class KnockOut:
    """Nodes of a circuit that are knocked out together."""

    kind: str
    """Why these: ``"nothing"`` (no node), ``"single"``, ``"random"``, ``"greedy"`` or ``"group"``."""
    nodes: tuple[str, ...]
    group: str = ""
    """Its name, where it was given one."""

    @property
    def name(self) -> str:
        """``a1.h0 + m2``, or the group's name."""
        return self.group or " + ".join(self.nodes) or "nothing"

    def __str__(self) -> str:
        return self.group or name_some(self.nodes) or "nothing"


def name_some(nodes: Sequence[str], limit: int = 6) -> str:
    """Names of nodes, the first of them where there are many.

    >>> name_some(["m0", "m1", "m2", "m3"], limit=2)
    'm0 + m1 + 2 more'
    """
    shown = list(nodes[:limit])
    return " + ".join(shown + [f"{len(nodes) - limit} more"] * (len(nodes) > limit))


@dataclass(frozen=True, eq=False)
class Completeness(Record):
    """Whether a circuit and the model lose as much when the same nodes are knocked out of both.

    A circuit that misses a backup agrees with the model as it is, and not once what it holds is gone:
    ``m(circuit without K)`` falls further than ``m(model without K)``. Returned by
    :func:`interp.measure_completeness` (Wang et al. 2023, arXiv 2211.00593, section 4). Raises
    :class:`CircuitError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "circuit": ("set", "prompt"),
        "model": ("set", "prompt"),
        "full": ("prompt",),
        "empty": ("prompt",),
    }

    sets: tuple[KnockOut, ...]
    """The first is that of no node."""
    circuit: Float[Tensor, "set prompt"]
    """The metric of the circuit without each set."""
    model: Float[Tensor, "set prompt"]
    """The metric of the model without each set."""
    full: Float[Tensor, " prompt"]
    """The metric of the whole model; ``empty`` with everything ablated."""
    empty: Float[Tensor, " prompt"]
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(set=len(self.sets))
        if not self.sets or self.sets[0].nodes:
            raise CircuitError("the first set of nodes that is knocked out must be the empty one.")

    @property
    def incompleteness(self) -> Float[Tensor, " set"]:
        """``|m(circuit without K) - m(model without K)|``, in the metric's units; 0 where complete."""
        return (self.circuit.double().mean(1) - self.model.double().mean(1)).abs()

    @property
    def shares(self) -> Float[Tensor, " set"]:
        """:attr:`incompleteness` as a share of the gap between the model and everything ablated."""
        return self.incompleteness / _gap(self.full, self.empty).abs()

    @property
    def worst(self) -> int:
        """The set with the largest incompleteness."""
        return int(self.incompleteness.argmax())

    def faithfulness(self) -> tuple[Float[Tensor, " set"], Float[Tensor, " set"]]:
        """Of the circuit and of the model without each set: 0 = everything ablated, 1 = the whole model."""
        base, gap = self.empty.double().mean(), _gap(self.full, self.empty)
        return (self.circuit.double().mean(1) - base) / gap, (self.model.double().mean(1) - base) / gap

    def to_frame(self) -> pd.DataFrame:
        """One row a set of nodes: kind, nodes, the metric of circuit and model, incompleteness and its share."""
        import pandas as pd

        return pd.DataFrame(
            {
                "kind": [one.kind for one in self.sets],
                "nodes": [one.name for one in self.sets],
                "circuit": self.circuit.double().mean(1).tolist(),
                "model": self.model.double().mean(1).tolist(),
                "incompleteness": self.incompleteness.tolist(),
                "share": self.shares.tolist(),
            }
        )

    def summary(self) -> str:
        """One line: how much circuit and model differ as they are, on average over sets, and at worst."""
        share, worst = self.shares, self.worst
        if bool(share.isnan().any()):
            return _NO_GAP.format("completeness")
        found = f"circuit and model differ by {share[0]:.0%} of the gap with nothing knocked out"
        if len(self.sets) > 1:
            found += (
                f", by {share[1:].mean():.0%} on average over {len(self.sets) - 1} sets of nodes knocked out, and "
                f"by {share[worst]:.0%} at most ({self.sets[worst]})"
            )
        return found

    def plot(self) -> go.Figure:
        """Circuit against model, a point a set (``interp.plots.plot_completeness``)."""
        return draw("plot_completeness", self)


@dataclass(frozen=True, eq=False)
class Minimality(Record):
    """What each edge or node of a circuit adds to it.

    Returned by :func:`interp.measure_minimality` (Wang et al. 2023, arXiv 2211.00593, section 4).
    Raises :class:`CircuitError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "alone": ("item", "prompt"),
        "most": ("item",),
        "full": ("prompt",),
        "empty": ("prompt",),
    }

    of: Literal["edges", "nodes"]
    names: tuple[str, ...]
    alone: Float[Tensor, "item prompt"]
    """Change of the metric when the item alone is taken out: ``m(circuit without v) - m(circuit)``."""
    most: Float[Tensor, " item"]
    """The largest ``|m(circuit without K and v) - m(circuit without K)|`` over sets ``K`` of nodes, none among
    them, with the metric averaged over prompts."""
    beside: tuple[tuple[str, ...], ...]
    """The nodes ``K`` at which :attr:`most` was found; empty where it is that of nothing else taken out."""
    n_sets: int
    """Sets ``K`` that were tried, the empty one counted."""
    full: Float[Tensor, " prompt"]
    """The metric of the whole model; ``empty`` with everything ablated."""
    empty: Float[Tensor, " prompt"]
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(item=len(self.names))
        if not self.names or len(self.beside) != len(self.names):
            raise CircuitError(
                f"Minimality needs a set of nodes for each item; got {len(self.beside)} for {len(self.names)}."
            )

    @property
    def changes(self) -> Float[Tensor, " item"]:
        """:attr:`alone`, averaged over prompts, as a share of the gap between the model and everything ablated.

        Negative: taking it out moves the metric towards the ablated run, so the item supports the clean
        answer.
        """
        return self.alone.double().mean(1) / _gap(self.full, self.empty)

    @property
    def scores(self) -> Float[Tensor, " item"]:
        """Minimality score: :attr:`most` as a share of the gap; near 0 the item is not needed."""
        return self.most.double() / _gap(self.full, self.empty).abs()

    def to_frame(self) -> pd.DataFrame:
        """One row an item, the largest score first: name, score, change alone, what was taken out beside it."""
        import pandas as pd

        order = self.scores.argsort(descending=True, stable=True)
        changes, scores = self.changes, self.scores
        return pd.DataFrame(
            {
                self.of[:-1]: [self.names[i] for i in order],
                "score": scores[order].tolist(),
                "change_alone": changes[order].tolist(),
                "beside": [" + ".join(self.beside[i]) for i in order],
            }
        )

    def unneeded(self, threshold: float = 0.01) -> tuple[str, ...]:
        """Items whose score is below a share of the gap, the least first."""
        scores = self.scores
        order = scores.argsort(stable=True)
        return tuple(self.names[i] for i in order.tolist() if float(scores[i]) < threshold)

    def summary(self) -> str:
        """One line: how many items matter by less than 1 % of the gap."""
        if bool(self.scores.isnan().any()):
            return _NO_GAP.format("minimality")
        idle = len(self.unneeded())
        beside = (
            f", whatever of {self.n_sets - 1} sets of nodes is taken out beside" if self.n_sets > 1 else ""
        )
        return f"{idle} of {len(self.names)} {self.of} change the metric by less than 1% of the gap{beside}"

    def plot(self) -> go.Figure:
        """Bars, the largest first (``interp.plots.plot_minimality``)."""
        return draw("plot_minimality", self)


def _gap(full: Tensor, empty: Tensor) -> Tensor:
    gap = full.double().mean() - empty.double().mean()
    return torch.where(gap == 0, torch.nan, gap)
