"""What a model still knows of several relations when the neurons of one are zeroed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class RelationNeurons(Record):
    """Accuracy on every relation with the top neurons of each zeroed, and with random ones.

    Accuracies are of prompts that played no part in ranking neurons. The last axis of an array with intervals is
    value, low, high. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "base": ("relation",),
        "accuracy": ("k", "relation", "relation"),
        "random": ("k", "relation", "relation", "end"),
        "layer": ("relation", "rank"),
        "neuron": ("relation", "rank"),
        "precision": ("relation", "rank"),
        "n_judged": ("relation",),
    }

    relations: tuple[str, ...]
    ks: tuple[int, ...]
    """How many neurons are zeroed, rising."""
    base: Float[Tensor, "relation"]
    """Accuracy with nothing zeroed."""
    accuracy: Float[Tensor, "k relation relation"]
    """[k, relation whose neurons are zeroed, relation that is judged]."""
    random: Float[Tensor, "k relation relation end"]
    """The same with as many random neurons of the same layers; mean over draws and its t interval."""
    layer: Int[Tensor, "relation rank"]
    neuron: Int[Tensor, "relation rank"]
    precision: Float[Tensor, "relation rank"]
    """Average precision of each for its relation against the others."""
    n_judged: Int[Tensor, "relation"]
    """Prompts that accuracies are of."""
    draws: int
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(relation=len(self.relations), k=len(self.ks), end=3)
        if len(self.relations) < 2 or not self.ks or self.ks != tuple(sorted(set(self.ks))):
            raise RecordError(
                f"relations are at least two, and numbers of neurons rise; got {len(self.relations)} and {self.ks}."
            )

    def __repr__(self) -> str:
        return f"RelationNeurons({self.summary()})"

    @property
    def within(self) -> Float[Tensor, "k"]:
        """Accuracy lost on the relation whose neurons are zeroed, mean over relations."""
        lost = self.base - self.accuracy
        return lost.diagonal(dim1=1, dim2=2).mean(1)

    @property
    def across(self) -> Float[Tensor, "k"]:
        """Accuracy lost on the other relations."""
        return (self.base - self.accuracy)[:, self._others].mean(1)

    @property
    def random_within(self) -> Float[Tensor, "k"]:
        """Accuracy lost on a relation with random neurons of the same layers."""
        return (self.base - self.random[..., 0]).diagonal(dim1=1, dim2=2).mean(1)

    @property
    def _others(self) -> Bool[Tensor, "relation relation"]:
        return ~torch.eye(len(self.relations), dtype=torch.bool)

    def at(self, zeroed: str, judged: str, k: int) -> float:
        """Accuracy on ``judged`` with ``k`` neurons of ``zeroed`` out.

        Raises :class:`RecordError` for what is not there.
        """
        return float(self.accuracy[self._index(zeroed, judged, k)])

    def random_at(self, zeroed: str, judged: str, k: int) -> Estimate:
        """The same with random neurons. Raises :class:`RecordError` for what is not there."""
        return Estimate(*self.random[self._index(zeroed, judged, k)].tolist())

    def _index(self, zeroed: str, judged: str, k: int) -> tuple[int, int, int]:
        for name in (zeroed, judged):
            if name not in self.relations:
                raise RecordError(unknown_name("relation", name, self.relations))
        if k not in self.ks:
            raise RecordError(f"{', '.join(map(str, self.ks))} neurons were zeroed; got k={k}.")
        return self.ks.index(k), self.relations.index(zeroed), self.relations.index(judged)

    def summary(self) -> str:
        """One line: accuracy lost within, across and with random neurons at the most zeroed."""
        return (
            f"{len(self.relations)} relations, {self.ks[-1]} neurons zeroed: accuracy lost within "
            f"{float(self.within[-1]):.3f}, across {float(self.across[-1]):.3f}, random "
            f"{float(self.random_within[-1]):.3f}; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a k, zeroed and judged relation: base, accuracy, random, low, high."""
        import pandas as pd

        rows = []
        for i, k in enumerate(self.ks):
            for a, zeroed in enumerate(self.relations):
                for b, judged in enumerate(self.relations):
                    random, low, high = self.random[i, a, b].tolist()
                    named = {"k": k, "zeroed": zeroed, "judged": judged, "base": float(self.base[b])}
                    found = {"accuracy": float(self.accuracy[i, a, b]), "random": random}
                    rows.append(named | found | {"low": low, "high": high})
        return pd.DataFrame(rows)

    def plot(self, k: int | None = None) -> go.Figure:
        """Accuracy lost as a matrix at one ``k``, the most by default, and means over all k
        (``interp.plots.plot_relation_neurons``)."""
        return draw("plot_relation_neurons", self, k=k)
