"""What a model does once chosen heads attend where they are told to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

CONTROLS = ("random_heads", "random_tokens")
"""The same attention given to other heads; the same heads' attention sent to other tokens."""

_MOST_NAMED = 6


@dataclass(frozen=True)
class AttentionMove:
    """One head's attention from one labelled token to another, averaged over prompts."""

    head: str
    """``L2H1``."""
    dest: str
    source: str
    before: float
    """Share of the head's attention, 0 to 1, in the model as it is."""
    after: float
    """What it was set to."""

    @property
    def name(self) -> str:
        """``L2H1 END to S2``."""
        return f"{self.head} {self.dest} to {self.source}"


@dataclass(frozen=True, eq=False)
class Repair(Record):
    """Metrics of every prompt before and after heads' attention was set, and under two controls.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "before": ("metric", "prompt"),
        "after": ("metric", "prompt"),
        "random_heads": ("metric", "draw", "prompt"),
        "random_tokens": ("metric", "draw", "prompt"),
    }

    moves: tuple[AttentionMove, ...]
    metrics: tuple[str, ...]
    higher_is_clean: tuple[bool, ...]
    """Whether more of each metric is better."""
    before: Float[Tensor, "metric prompt"]
    """The model as it is, on the clean prompts, in each metric's units."""
    after: Float[Tensor, "metric prompt"]
    random_heads: Float[Tensor, "metric draw prompt"]
    """The same attention given to as many other heads, drawn at random."""
    random_tokens: Float[Tensor, "metric draw prompt"]
    """The same heads made to attend, with the same weights, to other tokens drawn at random in every prompt."""
    gains: tuple[Estimate, ...]
    """Mean of ``after - before`` of every metric, with bootstrap intervals over prompts."""
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        n = len(self.metrics)
        self._check_axes(metric=n)
        if not self.moves or not n or len(self.gains) != n or len(self.higher_is_clean) != n:
            raise RecordError(
                f"Repair needs at least one move and one metric, and a gain of each; got {len(self.moves)} moves, "
                f"{n} metrics and {len(self.gains)} gains."
            )

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads whose attention was set."""
        return tuple(dict.fromkeys(move.head for move in self.moves))

    @property
    def named_heads(self) -> str:
        """The heads by name, or how many there are."""
        heads = self.heads
        return ", ".join(heads) if len(heads) <= _MOST_NAMED else f"{len(heads)} heads"

    def control(self, name: str) -> Float[Tensor, "metric draw prompt"]:
        """The scores of one control. Raises :class:`RecordError` for an unknown one."""
        if name not in CONTROLS:
            raise RecordError(unknown_name("control", name, CONTROLS))
        found: Tensor = getattr(self, name)
        return found

    def p_values(self, control: str) -> Float[Tensor, "metric"]:
        """Share of a control's draws that are as good on average as the repair, which is counted with them.

        One-sided, at least 1 / (draws + 1); NaN without a draw.
        """
        drawn, found = self.control(control).mean(-1), self.after.mean(-1)[:, None]
        better = torch.tensor(self.higher_is_clean)[:, None]
        as_good = torch.where(better, drawn >= found, drawn <= found).sum(-1)
        n = drawn.shape[1]
        return (as_good + 1) / (n + 1) if n else torch.full(found.shape[:1], torch.nan)

    def summary(self) -> str:
        """One line: every metric before and after, and its gain."""
        parts = [
            f"{name} {float(before):.3g} to {float(after):.3g} (gain {gain})"
            for name, before, after, gain in zip(
                self.metrics, self.before.mean(1), self.after.mean(1), self.gains, strict=True
            )
        ]
        return f"{self.named_heads} repaired: " + ", ".join(parts)

    def to_frame(self) -> pd.DataFrame:
        """One row a metric: means before, after and of the controls, the gain and p-values."""
        import pandas as pd

        return pd.DataFrame(
            {
                "metric": self.metrics,
                "before": self.before.mean(1).tolist(),
                "after": self.after.mean(1).tolist(),
                "gain": [gain.value for gain in self.gains],
                "gain_low": [gain.low for gain in self.gains],
                "gain_high": [gain.high for gain in self.gains],
                **{name: self.control(name).mean((1, 2)).tolist() for name in CONTROLS},
                **{f"p_value_{name}": self.p_values(name).tolist() for name in CONTROLS},
            }
        )

    def moves_frame(self) -> pd.DataFrame:
        """One row a move: head, dest, source, attention before and after."""
        import pandas as pd

        return pd.DataFrame([vars(move) for move in self.moves])

    def plot(self) -> go.Figure:
        """Metrics before and after beside the controls, and the attention moved (``interp.plots.plot_repair``)."""
        return draw("plot_repair", self)
