"""How well a detector tells prompts that have something from prompts that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.ranking import Ranking
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

GUARD_CELLS = ("neither", "behaviour only", "content only", "both")
"""What a guard may decide. With harm as content and refusal as behaviour: an answer, a refusal of something
harmless, harm that is not refused, harm that is."""


@dataclass(frozen=True, eq=False)
class DetectorReport(Record):
    """Scores of prompts that played no part in fitting, and what the threshold makes of them.

    A prompt is flagged where its score is above the threshold. Raises :class:`RecordError` for a side without
    prompts.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"positive": ("hit",), "negative": ("miss",)}

    name: str
    positive: Float[Tensor, " hit"]
    """Scores of prompts that should be flagged."""
    negative: Float[Tensor, " miss"]
    threshold: float | None
    wanted_rate: float | None
    """False positive rate that the threshold was calibrated to."""
    n_calibration: int | None
    """Negative prompts that the threshold rests on; none of them is here."""
    auc: Estimate
    """The chance that a positive scores above a negative, ties half, with a bootstrap interval over prompts."""
    true_rate: Estimate | None
    """Share of positives flagged, with an exact binomial interval."""
    false_rate: Estimate | None
    """Share of negatives flagged, with an exact binomial interval."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if not len(self.positive) or not len(self.negative):
            raise RecordError("a detector is judged on positive and negative prompts; one side is empty.")

    def __repr__(self) -> str:
        return f"DetectorReport({self.summary()})"

    @cached_property
    def ranking(self) -> Ranking:
        """All prompts by score."""
        scores = torch.cat([self.positive, self.negative]).double().cpu().numpy()
        return Ranking(scores, np.arange(len(scores)) < len(self.positive))

    def summary(self) -> str:
        """One line: AUC, and the rates at the threshold, with intervals."""
        parts = [f"AUC {_three(self.auc)}"]
        if self.true_rate is not None and self.false_rate is not None:
            parts += [f"{_three(self.true_rate)} flagged, {_three(self.false_rate)} of the others"]
        if self.wanted_rate is not None:
            parts[-1] += f" (calibrated to {self.wanted_rate:g} on {self.n_calibration} prompts)"
        return f"{', '.join(parts)}; {self.confidence:.0%} intervals; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt: its score, whether it is positive, whether it is flagged."""
        import pandas as pd

        scores = torch.cat([self.positive, self.negative])
        flagged = [None] * len(scores) if self.threshold is None else (scores > self.threshold).tolist()
        sides = [True] * len(self.positive) + [False] * len(self.negative)
        return pd.DataFrame({"score": scores.tolist(), "positive": sides, "flagged": flagged})

    def plot(self) -> go.Figure:
        """ROC curve and the scores of both sides (``interp.plots.plot_detector``)."""
        return draw("plot_detector", self)


def _three(one: Estimate) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


@dataclass(frozen=True, eq=False)
class GuardReport(Record):
    """What a guard decides about prompts whose content and behaviour are known.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "content": ("prompt",),
        "behaviour": ("prompt",),
        "truth": ("prompt",),
        "decided": ("prompt",),
    }

    content: Float[Tensor, " prompt"]
    """Score of the content's direction."""
    behaviour: Float[Tensor, " prompt"]
    """Score of the behaviour's direction."""
    truth: Int[Tensor, " prompt"]
    """Number in :data:`GUARD_CELLS`."""
    decided: Int[Tensor, " prompt"]
    thresholds: tuple[float, float]
    """Of content and behaviour."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        if not len(self.truth):
            raise RecordError("a guard is judged on prompts; there are none.")

    def __repr__(self) -> str:
        return f"GuardReport({self.summary()})"

    @property
    def table(self) -> Int[Tensor, "4 4"]:
        """Prompts by what is true (rows) and what was decided (columns), in the order of :data:`GUARD_CELLS`."""
        return torch.bincount(4 * self.truth.long() + self.decided.long(), minlength=16).reshape(4, 4)

    @property
    def accuracy(self) -> float:
        """Share of prompts whose content and behaviour are both told right, mean over the cells that there are."""
        table = self.table.double()
        there = table.sum(1) > 0
        return float((table.diag()[there] / table.sum(1)[there]).mean())

    def summary(self) -> str:
        """One line: balanced accuracy over the cells."""
        return f"balanced accuracy {self.accuracy:.3f} over {len(self.truth)} prompts; {self.provenance.summary()}"

    def to_frame(self) -> pd.DataFrame:
        """The table: a row for what is true, a column for what was decided."""
        import pandas as pd

        return pd.DataFrame(self.table.tolist(), index=list(GUARD_CELLS), columns=list(GUARD_CELLS))

    def plot(self) -> go.Figure:
        """Both scores of every prompt, and the table (``interp.plots.plot_guard``)."""
        return draw("plot_guard", self)
