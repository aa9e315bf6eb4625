"""How far baked steering is from the steering by hooks, and what became of knowledge when abstaining was baked in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError, unknown_name
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BAKE_PAIRS = ("hooked to baked", "unsteered to hooked", "unsteered to baked")
"""KL(first || second), in the order of :attr:`BakeReport.kl`."""


@dataclass(frozen=True, eq=False)
class BakeReport(Record):
    """Logits of baked models beside those of the same steering by hooks, on the same text.

    The last axis of ``kl`` is value, low, high. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "largest": ("baking",),
        "mean": ("baking",),
        "agreement": ("baking",),
        "kl": ("baking", "pair", "end"),
    }

    names: tuple[str, ...]
    exact: tuple[bool, ...]
    """Whether weights and hooks are the same but for rounding."""
    largest: Float[Tensor, " baking"]
    """Largest absolute difference of a logit, baked to hooked."""
    mean: Float[Tensor, " baking"]
    """Mean absolute difference of the logits."""
    agreement: Float[Tensor, " baking"]
    """Share of tokens at which both have the same likeliest next token."""
    kl: Float[Tensor, "baking pair end"]
    """Nats a token, pairs as in :data:`BAKE_PAIRS`, with bootstrap intervals over rows."""
    confidence: float
    n_tokens: int
    text: str
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(baking=len(self.names), pair=len(BAKE_PAIRS), end=3)
        if not self.names or len(self.exact) != len(self.names):
            raise RecordError(
                f"a report needs bakings, each exact or not; got {len(self.names)} and {len(self.exact)}."
            )

    def __repr__(self) -> str:
        return f"BakeReport({self.summary()})"

    @classmethod
    def join(cls, reports: Sequence[BakeReport]) -> BakeReport:
        """Several in one. Raises :class:`RecordError` for none, and for other texts or confidences."""
        kinds = {(one.text, one.confidence, one.n_tokens) for one in reports}
        if len(kinds) != 1:
            raise RecordError(f"reports are joined when of one text and confidence; got {len(kinds)} kinds.")
        first = reports[0]
        return replace(
            first,
            names=tuple(name for one in reports for name in one.names),
            exact=tuple(exact for one in reports for exact in one.exact),
            largest=torch.cat([one.largest for one in reports]),
            mean=torch.cat([one.mean for one in reports]),
            agreement=torch.cat([one.agreement for one in reports]),
            kl=torch.cat([one.kl for one in reports]),
        )

    def kl_of(self, name: str, pair: str) -> Estimate:
        """One KL with its interval. Raises :class:`RecordError` for what is not there."""
        if name not in self.names:
            raise RecordError(unknown_name("baking", name, self.names))
        if pair not in BAKE_PAIRS:
            raise RecordError(unknown_name("pair", pair, BAKE_PAIRS))
        return Estimate(*self.kl[self.names.index(name), BAKE_PAIRS.index(pair)].tolist())

    def summary(self) -> str:
        """One line: the largest difference and the KL to the hooked model of every baking."""
        parts = [
            f"{name}: logits to {float(self.largest[i]):.2g}, KL {float(self.kl[i, 0, 0]):.2g}"
            for i, name in enumerate(self.names)
        ]
        return f"baked to hooked, {'; '.join(parts)}; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """One row a baking."""
        import pandas as pd

        rows = []
        for i, name in enumerate(self.names):
            row = {"baking": name, "exact": self.exact[i], "largest": float(self.largest[i])}
            row |= {"mean": float(self.mean[i]), "agreement": float(self.agreement[i])}
            for j, pair in enumerate(BAKE_PAIRS):
                value, low, high = self.kl[i, j].tolist()
                row |= {f"kl {pair}": value, f"kl {pair} low": low, f"kl {pair} high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Differences of logits and KLs, a line a baking (``interp.plots.plot_bake_report``)."""
        return draw("plot_bake_report", self)


@dataclass(frozen=True, eq=False)
class AbstentionReport(Record):
    """What models make up about what they never saw, and what they still know, setting by setting.

    The last axis is value, low, high. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "made_up": ("setting", "end"),
        "known": ("setting", "end"),
    }

    names: tuple[str, ...]
    groups: tuple[str, ...]
    """The kind of each setting: ``"untouched"``, ``"CASAL"`` ..."""
    made_up: Float[Tensor, "setting end"]
    """Share of questions about the unseen that are answered as if known."""
    known: Float[Tensor, "setting end"]
    """Share of questions about the known that are answered right."""
    interval: str
    """What low and high are: ``"95% t intervals over 5 seeds"``."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(setting=len(self.names), end=3)
        if not self.names or len(self.groups) != len(self.names):
            raise RecordError(
                f"abstention needs settings with a group each; got {len(self.names)} and {len(self.groups)}."
            )

    def __repr__(self) -> str:
        return f"AbstentionReport({self.summary()})"

    def at(self, name: str) -> tuple[Estimate, Estimate]:
        """Made up and known of a setting. Raises :class:`RecordError` for an unknown one."""
        if name not in self.names:
            raise RecordError(unknown_name("setting", name, self.names))
        i = self.names.index(name)
        return Estimate(*self.made_up[i].tolist()), Estimate(*self.known[i].tolist())

    def best(self, group: str) -> int:
        """The setting of a group with the most known minus made up. Raises :class:`RecordError` for another group."""
        if group not in self.groups:
            raise RecordError(unknown_name("group", group, tuple(dict.fromkeys(self.groups))))
        own = torch.tensor([one == group for one in self.groups])
        gain = self.known[:, 0] - self.made_up[:, 0]
        return int(torch.where(own, gain, -torch.inf).argmax())

    def summary(self) -> str:
        """One line: the best setting of every group."""
        parts = []
        for group in dict.fromkeys(self.groups):
            i = self.best(group)
            parts.append(f"{group} {float(self.made_up[i, 0]):.3f}/{float(self.known[i, 0]):.3f}")
        return f"made up / known right: {', '.join(parts)}; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """One row a setting: group, made_up, known and their intervals."""
        import pandas as pd

        rows = []
        for i, (name, group) in enumerate(zip(self.names, self.groups, strict=True)):
            row: dict[str, object] = {"setting": name, "group": group}
            for figure in self.AXES:
                value, low, high = getattr(self, figure)[i].tolist()
                row |= {figure: value, f"{figure}_low": low, f"{figure}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Made up against known right, a mark a setting (``interp.plots.plot_abstention``)."""
        return draw("plot_abstention", self)
