"""What probes lose, or regain, when latents of one attribute are taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class ProbePerturbation(Record):
    """Balanced accuracy of every probe after the latents of every target were taken out (TPP).

    0.5 is chance. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "base": ("target",),
        "after": ("k", "target", "target"),
        "random": ("k", "draw", "target"),
        "related": ("target", "target"),
        "chosen": ("target", "rank"),
        "scores": ("k", "end"),
        "random_scores": ("k", "end"),
    }

    targets: tuple[str, ...]
    ks: tuple[int, ...]
    """Latents taken out."""
    base: Float[Tensor, " target"]
    """Of each probe with nothing taken out."""
    after: Float[Tensor, "k ablated probe"]
    """Of each probe (last axis) after the latents of each target (second axis) were taken out."""
    random: Float[Tensor, "k draw probe"]
    """After as many random latents that fire were taken out."""
    related: Bool[Tensor, "ablated probe"]
    """Two values of one attribute, whose probes cannot be independent; left out of what others lose."""
    chosen: Int[Tensor, "target rank"]
    """Latents of each target, the one that matters most first."""
    scores: Float[Tensor, "k end"]
    """What a target's own probe loses, less what unrelated probes lose, a mean over targets: value, low, high."""
    random_scores: Float[Tensor, "k end"]
    """The same where each target's latents are random ones: about 0."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(target=len(self.targets), k=len(self.ks), end=3)
        if len(self.targets) < 2 or bool(self.related.all()):
            raise RecordError("a targeted perturbation needs targets of at least two attributes.")

    def __repr__(self) -> str:
        return f"ProbePerturbation({self.summary()})"

    @property
    def drops(self) -> Float[Tensor, "k ablated probe"]:
        """Accuracy lost; negative where it rose."""
        return self.base - self.after

    @property
    def own_drops(self) -> Float[Tensor, "k target"]:
        """What each target's own probe loses."""
        return self.drops.diagonal(dim1=1, dim2=2)

    @property
    def other_drops(self) -> Float[Tensor, "k target"]:
        """What unrelated probes lose on average when a target's latents are taken out; NaN without any."""
        return self.drops.masked_fill(self.related, float("nan")).nanmean(2)

    @property
    def random_drops(self) -> Float[Tensor, "k target"]:
        """What each probe loses when random latents are taken out, a mean over draws."""
        return self.base - self.random.mean(1)

    def summary(self) -> str:
        """One line: what own, unrelated and randomly perturbed probes lose at the most latents, and the score."""
        value, low, high = self.scores[-1].tolist()
        own, others, random = (
            float(part[-1].nanmean()) for part in (self.own_drops, self.other_drops, self.random_drops)
        )
        return (
            f"{self.ks[-1]} latents out: own probes lose {own:.3f}, others {others:.3f}, of random latents "
            f"{random:.3f}; TPP {value:.3f} [{low:.3f}, {high:.3f}]; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a number of latents, ablated target and probe: base, after, drop, related."""
        import pandas as pd

        rows = []
        for i, k in enumerate(self.ks):
            for a, ablated in enumerate(self.targets):
                for p, probe in enumerate(self.targets):
                    base, after = float(self.base[p]), float(self.after[i, a, p])
                    named = {"k": k, "ablated": ablated, "probe": probe, "related": bool(self.related[a, p])}
                    rows.append(named | {"base": base, "after": after, "drop": base - after})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Drops as a table, and over k (``interp.plots.plot_probe_perturbation``)."""
        return draw("plot_probe_perturbation", self)


@dataclass(frozen=True, eq=False)
class ShortcutRemoval(Record):
    """Probes that learned a shortcut, before and after the shortcut's latents were taken out (SCR).

    Balanced accuracies on data where target and shortcut are independent. Raises :class:`RecordError` when the
    fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "biased": ("pair",),
        "oracle": ("pair",),
        "on_shortcut": ("pair",),
        "after": ("pair", "k", "end"),
        "random": ("pair", "k"),
        "chosen": ("pair", "rank"),
    }

    pairs: tuple[tuple[str, str], ...]
    """Target and shortcut."""
    ks: tuple[int, ...]
    """Latents taken out."""
    biased: Float[Tensor, " pair"]
    """Of the probe fitted where target and shortcut go together."""
    oracle: Float[Tensor, " pair"]
    """Of a probe fitted where they are independent."""
    on_shortcut: Float[Tensor, " pair"]
    """Of the biased probe's answers taken as answers about the shortcut: how far it learned that instead."""
    after: Float[Tensor, "pair k end"]
    """Of the biased probe after the shortcut's latents were taken out: value, low, high."""
    random: Float[Tensor, "pair k"]
    """The same with random latents that fire, a mean over draws."""
    chosen: Int[Tensor, "pair rank"]
    """Latents of the shortcut, the one that matters most first."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(pair=len(self.pairs), k=len(self.ks), end=3)
        if not self.pairs or not self.ks:
            raise RecordError("removal of shortcuts needs pairs and numbers of latents; got none.")

    def __repr__(self) -> str:
        return f"ShortcutRemoval({self.summary()})"

    @property
    def scores(self) -> Float[Tensor, "pair k"]:
        """Share of what the bias cost that is regained: 0 nothing, 1 all; NaN where it cost nothing."""
        return self._share(self.after[..., 0])

    @property
    def random_scores(self) -> Float[Tensor, "pair k"]:
        """The same of random latents."""
        return self._share(self.random)

    def _share(self, after: Tensor) -> Tensor:
        cost = (self.oracle - self.biased)[:, None]
        return ((after - self.biased[:, None]) / cost).where(cost > 0, float("nan"))

    def summary(self) -> str:
        """One line: accuracies before, after and of the oracle at the number of latents that helps most."""
        means = self.after[..., 0].mean(0)
        best = int(means.argmax())
        return (
            f"biased {float(self.biased.mean()):.3f}, {self.ks[best]} shortcut latents out {float(means[best]):.3f} "
            f"(random {float(self.random[:, best].mean()):.3f}), oracle {float(self.oracle.mean()):.3f}; "
            f"SCR {float(self.scores[:, best].nanmean()):.3f} over {len(self.pairs)} pairs; {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a pair and k: biased, after, low, high, random, oracle, score, random_score."""
        import pandas as pd

        rows = []
        for i, (target, shortcut) in enumerate(self.pairs):
            for j, k in enumerate(self.ks):
                value, low, high = self.after[i, j].tolist()
                figures = {"biased": float(self.biased[i]), "after": value, "low": low, "high": high}
                figures |= {"random": float(self.random[i, j]), "oracle": float(self.oracle[i])}
                figures |= {
                    "score": float(self.scores[i, j]),
                    "random_score": float(self.random_scores[i, j]),
                }
                rows.append({"target": target, "shortcut": shortcut, "k": k} | figures)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """A panel a pair over k (``interp.plots.plot_shortcut_removal``)."""
        return draw("plot_shortcut_removal", self)
