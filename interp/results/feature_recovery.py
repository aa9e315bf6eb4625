"""How well a dictionary's latents recover features that are known, of one dictionary and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
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

RECOVERY_FIGURES: Mapping[str, str] = {
    "mcc": "MCC: mean |cosine| of one-to-one matches",
    "mmcs": "MMCS: mean of each feature's largest cosine",
    "uniqueness": "share of latents nearest to a feature of their own",
    "activation_mcc": "mean correlation of activations, one-to-one",
    "f1": "F1 of each feature's best latent",
    "precision": "precision of each feature's best latent",
    "recall": "recall of each feature's best latent",
    "fvu": "fraction of variance unexplained",
    "l0": "latents that fire on a row",
}
"""Figures of a :class:`FeatureRecovery` and what each is."""


@dataclass(frozen=True, eq=False)
class FeatureRecovery(Record):
    """One dictionary against the features that its data were made of.

    Every figure has a definition that a reader can recompute from the arrays here. Raises
    :class:`RecordError` when they do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "cosines": ("latent", "feature"),
        "correlations": ("latent", "feature"),
        "detector": ("feature",),
        "threshold": ("feature",),
        "per_feature_f1": ("feature",),
        "per_feature_precision": ("feature",),
        "per_feature_recall": ("feature",),
        "firing": ("feature",),
    }

    cosines: Float[Tensor, "latent feature"]
    """Cosine of each latent's decoder row with each feature's direction; 0 for a row of zeros."""
    correlations: Float[Tensor, "latent feature"]
    """Pearson correlation of activations over rows; 0 where one of them never changes."""
    detector: Int[Tensor, " feature"]
    """The latent that tells best whether the feature fires, chosen on one half of the rows."""
    threshold: Float[Tensor, " feature"]
    """The feature is said to fire where its detector is at least this, chosen with the detector."""
    per_feature_f1: Float[Tensor, " feature"]
    """Of the detector on the other half; NaN for a feature that never fires there."""
    per_feature_precision: Float[Tensor, " feature"]
    per_feature_recall: Float[Tensor, " feature"]
    firing: Float[Tensor, " feature"]
    """Share of rows where each feature fires."""
    fvu: float
    """Squared error of the dictionary's output over the target's variance about its mean."""
    l0: float
    """Latents above 0 on a row, on average."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if not self.cosines.numel():
            raise RecordError(f"a recovery needs latents and features; got {list(self.cosines.shape)}.")

    def __repr__(self) -> str:
        return f"FeatureRecovery({self.summary()})"

    @property
    def n_latents(self) -> int:
        """Latents of the dictionary."""
        return len(self.cosines)

    @property
    def n_features(self) -> int:
        """Features that there are to find."""
        return self.cosines.shape[1]

    @cached_property
    def matched(self) -> Int[Tensor, " feature"]:
        """The latent of each feature in the one-to-one match of largest total |cosine|; -1 without one."""
        return match_one_to_one(self.cosines.abs())

    @property
    def matched_cosines(self) -> Float[Tensor, " feature"]:
        """|Cosine| of each feature with its match; 0 without one."""
        return _gather(self.cosines.abs(), self.matched)

    @property
    def mcc(self) -> float:
        """Mean |cosine| over features of the one-to-one (Hungarian) match; arXiv 2505.20254.

        A direction and its negative count alike, as there. A feature without a latent counts 0, so
        that a dictionary with fewer latents than features cannot reach 1.
        """
        return float(self.matched_cosines.double().mean())

    @property
    def activation_mcc(self) -> float:
        """The same of correlations of activations, with their sign, matched anew."""
        return float(_gather(self.correlations, match_one_to_one(self.correlations)).double().mean())

    @property
    def mmcs(self) -> float:
        """Mean over features of the largest cosine of any latent (Sharkey et al. 2022), with its sign."""
        return float(self.cosines.amax(0).double().mean())

    @property
    def uniqueness(self) -> float:
        """Distinct features among the nearest ones, by |cosine|, of all latents, over the number of latents.

        1 where every latent has a feature of its own, as in SAELens' synthetic suite; at most features over
        latents where there are more latents.
        """
        return len(self.cosines.abs().argmax(1).unique()) / self.n_latents

    @property
    def f1(self) -> float:
        """Mean over features of the F1 score of the feature's detector."""
        return _mean(self.per_feature_f1)

    @property
    def precision(self) -> float:
        """Mean over features of the detector's precision."""
        return _mean(self.per_feature_precision)

    @property
    def recall(self) -> float:
        """Mean over features of the detector's recall."""
        return _mean(self.per_feature_recall)

    def figures(self) -> dict[str, float]:
        """Every figure of :data:`RECOVERY_FIGURES`, by name."""
        return {name: float(getattr(self, name)) for name in RECOVERY_FIGURES}

    def summary(self) -> str:
        """One line: the figures, sizes and where they come from."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in self.figures().items())
        return f"{shown}; {self.n_latents} latents, {self.n_features} features; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """One row a feature: its firing share, match and cosine, detector, threshold, F1, precision, recall."""
        import pandas as pd

        return pd.DataFrame(
            {
                "feature": range(self.n_features),
                "firing": self.firing.tolist(),
                "matched": self.matched.tolist(),
                "cosine": self.matched_cosines.tolist(),
                "detector": self.detector.tolist(),
                "threshold": self.threshold.tolist(),
                "f1": self.per_feature_f1.tolist(),
                "precision": self.per_feature_precision.tolist(),
                "recall": self.per_feature_recall.tolist(),
            }
        )

    def plot(self) -> go.Figure:
        """Cosines, latents in the order of their features (``interp.plots.plot_feature_recovery``)."""
        return draw("plot_feature_recovery", self)


def match_one_to_one(scores: Float[Tensor, "latent feature"]) -> Int[Tensor, " feature"]:
    """The latent of every feature in the one-to-one match of largest total score; -1 for features left over."""
    from scipy.optimize import linear_sum_assignment

    latents, features = linear_sum_assignment(scores.detach().double().cpu().numpy(), maximize=True)
    found = torch.full((scores.shape[1],), -1)
    found[torch.from_numpy(features)] = torch.from_numpy(latents)
    return found


def _gather(scores: Float[Tensor, "latent feature"], latents: Int[Tensor, " feature"]) -> Tensor:
    there = latents.to(scores.device)
    found = scores.gather(0, there.clamp(min=0)[None])[0]
    return torch.where(there >= 0, found, torch.zeros_like(found))


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


@dataclass(frozen=True)
class RecoveryFigure:
    """One figure of one architecture over seeds."""

    architecture: str
    figure: str
    """A name of :data:`RECOVERY_FIGURES`."""
    values: tuple[float, ...]
    """One a seed."""
    estimate: Estimate
    """Mean over seeds and its interval; NaN ends where one seed says nothing of their spread."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return self.estimate.value


@dataclass(frozen=True, eq=False)
class RecoveryTable(Record):
    """Figures of several architectures over seeds, with those of random dictionaries beside them.

    Raises :class:`RecordError` for no rows, a figure twice or of an unknown name, and architectures that do not have
    the same figures.
    """

    rows: tuple[RecoveryFigure, ...]
    """Of the random dictionaries, too, under the name :attr:`random`."""
    random: str
    """The architecture whose directions are random."""
    interval: str
    """How intervals are made, for people: ``"t"`` or ``"bootstrap"``."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.rows:
            raise RecordError("a table of recoveries needs at least one row.")
        pairs = [(row.architecture, row.figure) for row in self.rows]
        unknown = sorted({figure for _, figure in pairs} - set(RECOVERY_FIGURES))
        if unknown:
            raise RecordError(unknown_name("figure", unknown[0], RECOVERY_FIGURES))
        whole = {(name, figure) for name in self.architectures for figure in self.figures}
        if len(set(pairs)) < len(pairs) or set(pairs) != whole:
            raise RecordError(
                f"every architecture has every figure once; got {len(pairs)} rows for {len(whole)} of them."
            )

    def __repr__(self) -> str:
        return f"RecoveryTable({self.summary()})"

    @property
    def architectures(self) -> tuple[str, ...]:
        """In their order, the random one included."""
        return tuple(dict.fromkeys(row.architecture for row in self.rows))

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures, in their order."""
        return tuple(dict.fromkeys(row.figure for row in self.rows))

    def at(self, architecture: str, figure: str) -> RecoveryFigure:
        """One row. Raises :class:`RecordError` for a name that is not there."""
        for kind, got, known in (
            ("architecture", architecture, self.architectures),
            ("figure", figure, self.figures),
        ):
            if got not in known:
                raise RecordError(unknown_name(kind, got, known))
        return next(row for row in self.rows if (row.architecture, row.figure) == (architecture, figure))

    def summary(self) -> str:
        """One line: each architecture's MCC (or first figure) with its interval, the random one's last."""
        figure = "mcc" if "mcc" in self.figures else self.figures[0]
        order = sorted(self.architectures, key=lambda name: name == self.random)
        shown = ", ".join(f"{name} {_write(self.at(name, figure).estimate)}" for name in order)
        return f"{figure}: {shown} ({self.confidence:.0%} {self.interval} intervals over seeds)"

    def to_frame(self) -> pd.DataFrame:
        """One row an architecture and figure: n_seeds, mean, low, high, and the mean of random dictionaries."""
        import pandas as pd

        has_random = self.random in self.architectures
        rows = []
        for row in self.rows:
            random = self.at(self.random, row.figure).mean if has_random else math.nan
            ends = {"mean": row.mean, "low": row.estimate.low, "high": row.estimate.high, "random": random}
            named = {"architecture": row.architecture, "figure": row.figure, "n_seeds": len(row.values)}
            rows.append(named | ends)
        return pd.DataFrame(rows)

    def plot(self, figures: tuple[str, ...] | None = None) -> go.Figure:
        """A panel a figure, seeds as points (``interp.plots.plot_recovery_table``)."""
        return draw("plot_recovery_table", self, figures=figures)


def _write(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
