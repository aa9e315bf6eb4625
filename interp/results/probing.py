"""How well attributes are told from a few latents, by probes or by single latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PROBE_METRICS = ("accuracy", "f1", "auc")
ProbeMetric = Literal["accuracy", "f1", "auc"]
MATCH_SOURCES = ("latents", "random latents", "neurons", "principal components")


@dataclass(frozen=True, eq=False)
class SparseProbing(Record):
    """Probes on the best k latents for every target, beside three comparisons.

    The last axis of an array with intervals is value, low, high; metrics are in the order of
    :data:`PROBE_METRICS`. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "latents": ("target", "k", "metric", "end"),
        "random": ("target", "k", "metric", "end"),
        "dense": ("target", "metric", "end"),
        "constant": ("target", "metric"),
        "chosen": ("target", "rank"),
    }

    targets: tuple[str, ...]
    """``"tense=past"`` ..."""
    ks: tuple[int, ...]
    latents: Float[Tensor, "target k metric end"]
    random: Float[Tensor, "target k metric end"]
    """The same with latents of random directions."""
    dense: Float[Tensor, "target metric end"]
    """A probe on the whole activation."""
    constant: Float[Tensor, "target metric"]
    """Without looking: the majority answer (accuracy), always yes (F1), 0.5 (AUC)."""
    chosen: Int[Tensor, "target rank"]
    """Latents in the order they were chosen."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(target=len(self.targets), k=len(self.ks), metric=len(PROBE_METRICS), end=3)
        if not self.targets or not self.ks:
            raise RecordError("sparse probing needs targets and numbers of latents; got none.")

    def __repr__(self) -> str:
        return f"SparseProbing({self.summary()})"

    def at(self, target: str, k: int, metric: ProbeMetric = "accuracy") -> Estimate:
        """One figure with its interval. Raises :class:`RecordError` for what is not there."""
        if target not in self.targets:
            raise RecordError(unknown_name("target", target, self.targets))
        if k not in self.ks:
            raise RecordError(f"probes have {', '.join(map(str, self.ks))} latents; got k={k}.")
        cell = self.latents[self.targets.index(target), self.ks.index(k), metric_index(metric)]
        return Estimate(*cell.tolist())

    def summary(self) -> str:
        """One line: mean accuracy over targets at the fewest and most latents, random, dense and constant."""
        ends = dict.fromkeys((0, len(self.ks) - 1))
        parts = [
            f"k={self.ks[i]}: {float(self.latents[:, i, 0, 0].mean()):.3f} "
            f"(random {float(self.random[:, i, 0, 0].mean()):.3f})"
            for i in ends
        ]
        return (
            f"accuracy over {len(self.targets)} targets {', '.join(parts)}, dense "
            f"{float(self.dense[:, 0, 0].mean()):.3f}, constant {float(self.constant[:, 0].mean()):.3f}; "
            f"{self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a target, k and metric: value, low, high, random, dense, constant."""
        import pandas as pd

        rows = []
        for i, target in enumerate(self.targets):
            for j, k in enumerate(self.ks):
                for m, metric in enumerate(PROBE_METRICS):
                    value, low, high = self.latents[i, j, m].tolist()
                    figures = {
                        "value": value,
                        "low": low,
                        "high": high,
                        "random": float(self.random[i, j, m, 0]),
                    }
                    figures |= {"dense": float(self.dense[i, m, 0]), "constant": float(self.constant[i, m])}
                    rows.append({"target": target, "k": k, "metric": metric} | figures)
        return pd.DataFrame(rows)

    def plot(self, metric: ProbeMetric = "accuracy") -> go.Figure:
        """A panel a target over k (``interp.plots.plot_probing``)."""
        return draw("plot_probing", self, metric=metric)


def metric_index(metric: str) -> int:
    """Place of a metric on its axis. Raises :class:`RecordError` for an unknown one."""
    if metric not in PROBE_METRICS:
        raise RecordError(unknown_name("metric", metric, PROBE_METRICS))
    return PROBE_METRICS.index(metric)


@dataclass(frozen=True, eq=False)
class AttributeMatch(Record):
    """The best single unit for each target, from a dictionary and from what needs no dictionary.

    Sources are in the order of :data:`MATCH_SOURCES`. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "f1": ("source", "target", "end"),
        "unit": ("source", "target"),
        "threshold": ("source", "target"),
        "sign": ("source", "target"),
        "always": ("target",),
    }

    targets: tuple[str, ...]
    f1: Float[Tensor, "source target end"]
    """Value, low, high on prompts that played no part in choosing."""
    unit: Int[Tensor, "source target"]
    """Latent, neuron or principal component."""
    threshold: Float[Tensor, "source target"]
    """Yes where the unit times its sign is at least this."""
    sign: Float[Tensor, "source target"]
    """-1 where a low value means yes; latents are read as they are, neurons and components both ways."""
    always: Float[Tensor, " target"]
    """F1 of saying yes everywhere."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(source=len(MATCH_SOURCES), target=len(self.targets), end=3)
        if not self.targets:
            raise RecordError("a match of attributes needs targets; got none.")

    def __repr__(self) -> str:
        return f"AttributeMatch({self.summary()})"

    def best(self, target: str) -> tuple[int, Estimate]:
        """The latent of a target and its F1. Raises :class:`RecordError` for an unknown target."""
        if target not in self.targets:
            raise RecordError(unknown_name("target", target, self.targets))
        at = self.targets.index(target)
        return int(self.unit[0, at]), Estimate(*self.f1[0, at].tolist())

    def summary(self) -> str:
        """One line: mean best F1 of every source over targets, and of saying yes everywhere."""
        means = self.f1[..., 0].double().nanmean(1).tolist()
        shown = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(MATCH_SOURCES, means, strict=True))
        return (
            f"best F1 over {len(self.targets)} targets: {shown}, always yes "
            f"{float(self.always.double().nanmean()):.3f}; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a source and target: unit, sign, threshold, f1, low, high, and F1 of always yes."""
        import pandas as pd

        rows = []
        for i, source in enumerate(MATCH_SOURCES):
            for j, target in enumerate(self.targets):
                value, low, high = self.f1[i, j].tolist()
                named = {"source": source, "target": target, "unit": int(self.unit[i, j])}
                named |= {"sign": float(self.sign[i, j]), "threshold": float(self.threshold[i, j])}
                rows.append(named | {"f1": value, "low": low, "high": high, "always": float(self.always[j])})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Best F1 of each target by source (``interp.plots.plot_attribute_match``)."""
        return draw("plot_attribute_match", self)
