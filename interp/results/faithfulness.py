"""How much of what a model does its circuits do, over how many edges they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import CircuitError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class RandomCurve(Record):
    """Random circuits as large as those they are compared with; one row a fraction."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "n_edges": ("fraction", "draw"),
        "metric": ("fraction", "draw"),
    }

    kind: str
    """``"uniform"``, ``"degree"`` or ``"connected"``."""
    like: str | None
    """The method whose circuits are matched; ``None`` where only the number of edges is, for all methods."""
    n_drawn: tuple[int, ...]
    """Edges drawn at each fraction."""
    n_edges: Int[Tensor, "fraction draw"]
    """Of them, those that lie on a way from the input to the logits."""
    metric: Float[Tensor, "fraction draw"]
    """Averaged over prompts."""

    def __post_init__(self) -> None:
        self._check_axes(fraction=len(self.n_drawn))

    @property
    def name(self) -> str:
        """``connected``, or ``degree: eap-ig``."""
        return self.kind if self.like is None else f"{self.kind}: {self.like}"

    def __str__(self) -> str:
        said = {
            "uniform": "random edges",
            "degree": f"random edges, as many into each reader{f' as {self.like}' if self.like else ''}",
            "connected": "random connected circuits",
        }
        return said.get(self.kind, self.name)


@dataclass(frozen=True, eq=False)
class Faithfulness(Record):
    """Faithfulness of circuits of several sizes, by one method or several.

    ``f = (m(circuit) - m(no edge)) / (m(all edges) - m(no edge))`` with the metric ``m`` averaged over
    prompts: 0 = everything ablated (with ``source`` ablation: the corrupted run), 1 = the whole model.
    Returned by :func:`interp.measure_faithfulness`. Raises :class:`CircuitError` when the fields do not
    agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "n_edges": ("method", "fraction"),
        "per_prompt": ("method", "fraction", "prompt"),
        "low": ("method", "fraction"),
        "high": ("method", "fraction"),
        "full": ("prompt",),
        "empty": ("prompt",),
    }

    methods: tuple[str, ...]
    fractions: tuple[float, ...]
    """Shares of all edges that were asked for, rising."""
    n_edges: Int[Tensor, "method fraction"]
    """Edges that each circuit has, once those that carry nothing are dropped."""
    n_total: int
    """Edges of the whole graph."""
    per_prompt: Float[Tensor, "method fraction prompt"]
    """The metric of every prompt with each circuit run."""
    full: Float[Tensor, " prompt"]
    """The metric with all edges; ``empty`` with none."""
    empty: Float[Tensor, " prompt"]
    low: Float[Tensor, "method fraction"]
    """Lower end of the interval of :attr:`values`; ``high`` the upper."""
    high: Float[Tensor, "method fraction"]
    cpr: tuple[Estimate, ...]
    """Of each method: the integral of ``f`` over the fraction (CPR, more is better)."""
    cmd: tuple[Estimate, ...]
    """Of each method: the integral of ``|1 - f|`` over the fraction (CMD, less is better)."""
    confidence: float
    provenance: Provenance
    nulls: tuple[RandomCurve, ...] = ()

    def __post_init__(self) -> None:
        n, k = len(self.methods), len(self.fractions)
        if not n or not k:
            raise CircuitError(f"Faithfulness needs methods and fractions; got {n} and {k}.")
        self._check_axes(method=n, fraction=k)
        twice = [name for name, times in Counter(self.methods).items() if times > 1]
        if twice:
            raise CircuitError(f"methods must have different names; {twice[0]!r} stands there twice.")
        if list(self.fractions) != sorted(self.fractions):
            raise CircuitError(f"fractions must rise; got {self.fractions}.")
        if len(self.cpr) != n or len(self.cmd) != n or any(len(c.n_drawn) != k for c in self.nulls):
            raise CircuitError(
                f"Faithfulness of {n} methods at {k} fractions has {len(self.cpr)} CPR, {len(self.cmd)} CMD and "
                f"random circuits at {sorted({len(c.n_drawn) for c in self.nulls})} fractions."
            )

    @property
    def values(self) -> Float[Tensor, "method fraction"]:
        """Faithfulness: 0 = everything ablated, 1 = the whole model. NaN when both are equal."""
        return self._share(self.per_prompt.double().mean(-1))

    def null_values(self, curve: RandomCurve) -> Float[Tensor, "fraction draw"]:
        """Faithfulness of random circuits."""
        return self._share(curve.metric.double())

    def null_cpr(self, curve: RandomCurve) -> float:
        """CPR of random circuits, averaged over draws."""
        return float(torch.trapezoid(self.null_values(curve).mean(1), self._fractions))

    def null_cmd(self, curve: RandomCurve) -> float:
        """CMD of random circuits, averaged over draws (the mean of ``|1 - f|``, not of ``f``)."""
        distance = (1 - self.null_values(curve)).abs().mean(1)
        return float(torch.trapezoid(distance, self._fractions))

    @property
    def _fractions(self) -> Tensor:
        return torch.tensor(self.fractions, dtype=torch.float64)

    def _share(self, metric: Tensor) -> Tensor:
        full, empty = self.full.double().mean(), self.empty.double().mean()
        gap = full - empty
        return torch.full_like(metric, float("nan")) if gap == 0 else (metric - empty) / gap

    def at(self, method: str) -> int:
        """The row of a method. Raises :class:`CircuitError` for a method that is not here."""
        if method not in self.methods:
            raise CircuitError(unknown_name("method", method, self.methods))
        return self.methods.index(method)

    def to_frame(self) -> pd.DataFrame:
        """One row a method and fraction, and one for each kind of random circuit: ``drawn`` tells them apart.

        Of random circuits ``low`` and ``high`` are the lowest and highest of the draws.
        """
        import pandas as pd

        rows = []
        values, metric = self.values, self.per_prompt.double().mean(-1)
        for i, method in enumerate(self.methods):
            for k, fraction in enumerate(self.fractions):
                rows.append(
                    {
                        "method": method,
                        "drawn": False,
                        "fraction": fraction,
                        "edges": float(self.n_edges[i, k]),
                        "faithfulness": float(values[i, k]),
                        "low": float(self.low[i, k]),
                        "high": float(self.high[i, k]),
                        "metric": float(metric[i, k]),
                    }
                )
        for curve in self.nulls:
            drawn = self.null_values(curve)
            for k, fraction in enumerate(self.fractions):
                rows.append(
                    {
                        "method": curve.name,
                        "drawn": True,
                        "fraction": fraction,
                        "edges": float(curve.n_edges[k].double().mean()),
                        "faithfulness": float(drawn[k].mean()),
                        "low": float(drawn[k].min()),
                        "high": float(drawn[k].max()),
                        "metric": float(curve.metric[k].double().mean()),
                    }
                )
        return pd.DataFrame(rows)

    def describe_areas(self, which: str | RandomCurve) -> str:
        """CPR and CMD of a method or of random circuits, to three places, for methods differ by little.

        Raises :class:`CircuitError` for a method that is not here.
        """
        if isinstance(which, RandomCurve):
            return f"CPR {self.null_cpr(which):z.3f}, CMD {self.null_cmd(which):z.3f}"
        row = self.at(which)
        return f"CPR {_three_places(self.cpr[row])}, CMD {_three_places(self.cmd[row])}"

    def summary(self) -> str:
        """A line a method with its CPR and CMD, and one a kind of random circuit."""
        curves: list[str | RandomCurve] = [*self.methods, *self.nulls]
        return "\n".join(f"{curve}: {self.describe_areas(curve)}" for curve in curves)

    def plot(self) -> go.Figure:
        """Faithfulness over edges kept (``interp.plots.plot_faithfulness``)."""
        return draw("plot_faithfulness", self)


def _three_places(of: Estimate) -> str:
    return "undefined" if of.value != of.value else f"{of.value:z.3f} [{of.low:z.3f}, {of.high:z.3f}]"
