"""Gates of steerings: how well they tell prompts, what gated steering does, and how a controller learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
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

_RESAMPLES = 1000
Side = Literal["act", "leave"]
"""Prompts that should be steered, and prompts that should be left alone."""
GateFigure = Literal["effect", "kl", "gate"]
SIDES: tuple[Side, ...] = ("act", "leave")
FIGURES: tuple[GateFigure, ...] = ("effect", "kl", "gate")


@dataclass(frozen=True, eq=False)
class ConditionReport(Record):
    """Scores of prompts that played no part in fitting a condition, and its rates on them.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "yes": ("yes",),
        "no": ("no",),
        "site_auc": ("site", "end"),
        "choosing_auc": ("site",),
    }

    yes: Float[Tensor, " yes"]
    """Scores of prompts on which it should be open."""
    no: Float[Tensor, " no"]
    """Scores of those on which it should be closed."""
    threshold: float
    """Open above it."""
    auc: Estimate
    tpr: Estimate
    """Share of the first that are open."""
    fpr: Estimate
    """Share of the second that are open."""
    target: str
    """What the threshold was chosen for: ``"best F1"``, ``"false-positive rate 0.05"``."""
    sites: tuple[str, ...]
    """Those that were tried."""
    chosen: int
    """Which of them it reads."""
    site_auc: Float[Tensor, "site end"]
    """AUC at every site with its interval, on the prompts reported on."""
    choosing_auc: Float[Tensor, " site"]
    """AUC at every site on the prompts by which it was chosen."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(site=len(self.sites), end=3)
        if not len(self.yes) or not len(self.no):
            raise RecordError("a condition's report needs prompts of both kinds; got none of one.")
        if not 0 <= self.chosen < len(self.sites):
            raise RecordError(
                f"{len(self.sites)} sites were tried; got number {self.chosen} as the chosen one."
            )

    def __repr__(self) -> str:
        return f"ConditionReport({self.summary()})"

    @property
    def roc(self) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        """False-positive and true-positive rate at every threshold, both rising from 0 to 1."""
        yes, no = (side.double().numpy() for side in (self.yes, self.no))
        cuts = np.r_[np.inf, np.unique(np.r_[yes, no])[::-1]]
        return (no >= cuts[:, None]).mean(1), (yes >= cuts[:, None]).mean(1)

    def summary(self) -> str:
        """One line: AUC, both rates and the site."""
        return (
            f"AUC {self.auc}, TPR {self.tpr}, FPR {self.fpr} at {self.sites[self.chosen]} for {self.target}; "
            f"{self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a site: AUC with its interval, AUC on the choosing prompts, whether it was chosen."""
        import pandas as pd

        columns = dict(zip(("auc", "low", "high"), self.site_auc.T.tolist(), strict=True))
        chosen = [number == self.chosen for number in range(len(self.sites))]
        return pd.DataFrame(
            {"site": self.sites, **columns, "choosing_auc": self.choosing_auc.tolist(), "chosen": chosen}
        )

    def plot(self) -> go.Figure:
        """Its ROC curve, scores of both kinds and AUC by site (``interp.plots.plot_condition_report``)."""
        return draw("plot_condition_report", self)


@dataclass(frozen=True, eq=False)
class GatedEffects(Record):
    """What several steerings do to prompts that they should act on and to prompts that they should leave alone.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "act_effect": ("arm", "act"),
        "leave_effect": ("arm", "leave"),
        "act_kl": ("arm", "act"),
        "leave_kl": ("arm", "leave"),
        "act_gate": ("arm", "act"),
        "leave_gate": ("arm", "leave"),
    }

    arms: tuple[str, ...]
    """The steerings compared: ``"always on"``, ``"condition"`` ..."""
    act_effect: Float[Tensor, "arm act"]
    """What steering adds to the behaviour on every prompt's continuation."""
    leave_effect: Float[Tensor, "arm leave"]
    act_kl: Float[Tensor, "arm act"]
    """KL(unsteered || steered) on every prompt's continuation, nats a token."""
    leave_kl: Float[Tensor, "arm leave"]
    act_gate: Float[Tensor, "arm act"]
    """The gate's factor: 1 for a steering without one, the mean over channels of one with several."""
    leave_gate: Float[Tensor, "arm leave"]
    behaviour: str
    """What the effect is of: ``"log odds of formal words, nats"``."""
    strength: float
    """Of all steerings; NaN where each has its own."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(arm=len(self.arms))
        if not self.arms or not self.act_effect.shape[1] or not self.leave_effect.shape[1]:
            raise RecordError("gated effects need a steering, and prompts of both kinds; got none.")

    def __repr__(self) -> str:
        return f"GatedEffects({self.summary()})"

    def values(self, arm: str, figure: GateFigure, side: Side) -> Float[Tensor, " prompt"]:
        """A figure of every prompt. Raises :class:`RecordError` for names that are not there."""
        for kind, got, known in (("arm", arm, self.arms), ("figure", figure, FIGURES), ("side", side, SIDES)):
            if got not in known:
                raise RecordError(unknown_name(kind, got, known))
        return getattr(self, f"{side}_{figure}")[self.arms.index(arm)]

    def mean(self, arm: str, figure: GateFigure, side: Side) -> Estimate:
        """Its mean with a bootstrap interval over prompts. Raises as :meth:`values`."""
        x = self.values(arm, figure, side).double().numpy()
        picked = np.random.default_rng(0).integers(0, len(x), (_RESAMPLES, len(x)))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(x[picked].mean(1), (tail, 1 - tail))
        return Estimate(float(x.mean()), float(low), float(high))

    def opened(self, arm: str, side: Side) -> float:
        """Share of prompts on which the gate is more than half open. Raises as :meth:`values`."""
        return float((self.values(arm, "gate", side) > 0.5).double().mean())

    def summary(self) -> str:
        """One line: effect where it should act, KL where it should not, of every steering."""
        parts = [
            f"{arm} {self.mean(arm, 'effect', 'act').value:.2f} / {self.mean(arm, 'kl', 'leave').value:.3f}"
            for arm in self.arms
        ]
        return (
            f"effect where it should act / KL where it should not: {', '.join(parts)}; "
            f"{self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an arm, side and figure: mean, low, high."""
        import pandas as pd

        rows = []
        for arm in self.arms:
            for side in SIDES:
                for figure in FIGURES:
                    found = self.mean(arm, figure, side)
                    named = {"arm": arm, "side": side, "figure": figure}
                    rows.append(named | {"mean": found.value, "low": found.low, "high": found.high})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Effects and KL of every steering on both kinds of prompts (``interp.plots.plot_gated_effects``)."""
        return draw("plot_gated_effects", self)


@dataclass(frozen=True, eq=False)
class ControllerHistory(Record):
    """How a controller learned. Raises :class:`RecordError` when the fields do not agree."""

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "steps": ("step",),
        "loss": ("step",),
        "effect": ("step",),
        "act_kl": ("step",),
        "leave_kl": ("step",),
        "act_gate": ("step",),
        "leave_gate": ("step",),
        "weights": ("step", "channel"),
    }

    steps: Int[Tensor, " step"]
    """Optimiser steps, rising from 1."""
    loss: Float[Tensor, " step"]
    effect: Float[Tensor, " step"]
    """What steering adds to the behaviour on the batch's prompts to act on; NaN where labels are learned."""
    act_kl: Float[Tensor, " step"]
    """Nats a token; NaN where labels are learned."""
    leave_kl: Float[Tensor, " step"]
    act_gate: Float[Tensor, " step"]
    """Mean of the gate, 0 to 1, on prompts to act on."""
    leave_gate: Float[Tensor, " step"]
    weights: Float[Tensor, "step channel"]
    """Mean weight of every step of the steering on prompts to act on; they are 1 on average."""
    channels: tuple[str, ...]
    """The steering's steps: ``"add(resid_post[1])"``."""
    objective: str
    """``"both"``, ``"behaviour"`` or ``"labels"``."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(channel=len(self.channels))
        if not len(self.steps) or bool((self.steps.diff() <= 0).any()):
            raise RecordError("a controller's history needs rising steps, at least one.")

    def __repr__(self) -> str:
        return f"ControllerHistory({self.summary()})"

    def summary(self) -> str:
        """One line: the gate on both kinds of prompts at the end, and the layer weights."""
        weights = ", ".join(f"{w:.2f}" for w in self.weights[-1].tolist())
        return (
            f"{len(self.steps)} steps on {self.objective}: gate {float(self.act_gate[-1]):.2f} where it should act, "
            f"{float(self.leave_gate[-1]):.2f} where it should not, weights {weights}; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a step."""
        import pandas as pd

        names = ("steps", "loss", "effect", "act_kl", "leave_kl", "act_gate", "leave_gate")
        columns = {name.removesuffix("s") if name == "steps" else name: getattr(self, name) for name in names}
        weights = {f"weight of {name}": self.weights[:, i] for i, name in enumerate(self.channels)}
        return pd.DataFrame({name: value.tolist() for name, value in (columns | weights).items()})

    def plot(self) -> go.Figure:
        """Loss, effect, KL, gate and weights over steps (``interp.plots.plot_controller_history``)."""
        return draw("plot_controller_history", self)
