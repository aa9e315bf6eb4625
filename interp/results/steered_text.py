"""Text that was read or written under a steering, with how strongly it acted on every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class SteeredText(Record):
    """Strength of a steering at every token of prompts and their continuations.

    Gates and weights are in the strength; of several steps it is the largest. Shows itself as coloured text in a
    notebook. Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "strength": ("row", "pos"),
        "n_prompt": ("row",),
        "asked": ("row",),
    }

    tokens: tuple[tuple[str, ...], ...]
    """Each row's own tokens as text, padding left out: the prompt, then what follows."""
    strength: Float[Tensor, "row pos"]
    """0 where nothing acted; NaN at a token that the model has not read, as the last that it wrote, and after a
    row's last token."""
    n_prompt: Int[Tensor, "row"]
    """Tokens of each row's prompt."""
    asked: Float[Tensor, "row"]
    """The dose or strength that was asked for in each row; 0 for a row without a steering."""
    unit: str
    """``"dose"``, nats of KL on neutral text, or ``"strength"``."""
    steering: tuple[str, ...]
    """What acted on each row, in a few words; empty where nothing did."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(row=len(self.tokens))
        if self.unit not in ("dose", "strength") or len(self.steering) != len(self.tokens):
            raise RecordError(
                f"SteeredText is in units of 'dose' or 'strength', with a steering a row; got {self.unit!r} and "
                f"{len(self.steering)} for {len(self.tokens)} rows."
            )
        longest = max((len(row) for row in self.tokens), default=0)
        if not longest or longest > self.strength.shape[1]:
            raise RecordError(
                f"SteeredText has strengths for {self.strength.shape[1]} positions and rows of up to {longest} tokens."
            )
        for number, tokens in enumerate(self.tokens):
            if not bool(self.strength[number, len(tokens) :].isnan().all()):
                raise RecordError("SteeredText must be NaN after a row's last token.")
            if not 0 < int(self.n_prompt[number]) <= len(tokens):
                raise RecordError(
                    f"row {number} has {len(tokens)} tokens and a prompt of {int(self.n_prompt[number])}."
                )

    def __len__(self) -> int:
        return len(self.tokens)

    def to_frame(self) -> pd.DataFrame:
        """One row a token: row, pos, token, generated, strength."""
        import pandas as pd

        return pd.DataFrame(
            {
                "row": row,
                "pos": pos,
                "token": token,
                "generated": pos >= int(self.n_prompt[row]),
                "strength": float(self.strength[row, pos]),
            }
            for row, tokens in enumerate(self.tokens)
            for pos, token in enumerate(tokens)
        )

    def plot(self, rows: int = 12) -> go.Figure:
        """Bars by token of the first ``rows`` rows (``interp.plots.plot_steered_text``)."""
        return draw("plot_steered_text", self, rows=rows)

    def to_html(self, rows: int = 12) -> str:
        """Coloured text of the first ``rows`` rows (``interp.plots.steered_text_html``)."""
        text: str = draw("steered_text_html", self, rows=rows)
        return text

    def _repr_html_(self) -> str:
        return self.to_html()
