"""What each token of each prompt contributes to a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.token_text import visible_token
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class TokenScores(Record):
    """Contribution of every token of every prompt, in units of the metric.

    Positive speaks for the metric, negative against it: about how far the metric would fall if the
    token's embedding were replaced. Shows itself as coloured text in a notebook. Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"values": ("prompt", "pos"), "metric": ("prompt",)}

    tokens: tuple[tuple[str, ...], ...]
    """Each prompt's own tokens as text, padding left out."""
    values: Float[Tensor, "prompt pos"]
    """By position, counted from the first real token; NaN after a prompt's last."""
    metric: Float[Tensor, "prompt"]
    """The metric of each prompt as it is."""
    run: str
    """``"clean"`` or ``"corrupted"``: whose tokens they are."""
    provenance: Provenance
    """``ablation`` says what a token was compared with: ``zero`` is none of its embedding."""

    def __post_init__(self) -> None:
        self._check_axes(prompt=len(self.tokens))
        longest = max((len(row) for row in self.tokens), default=0)
        if not longest or longest > self.values.shape[1]:
            raise RecordError(
                f"TokenScores has values for {self.values.shape[1]} positions and prompts of up to {longest} tokens."
            )
        for row, tokens in zip(self.values, self.tokens, strict=True):
            if not bool(row[len(tokens) :].isnan().all()):
                raise RecordError("TokenScores must be NaN after a prompt's last token.")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def total(self) -> Float[Tensor, "prompt"]:
        """Sum over each prompt's tokens: what the prompt as a whole contributes."""
        return self.values.nansum(1)

    def top(self, k: int = 10, prompt: int | None = None) -> list[tuple[str, int, int, float]]:
        """The ``k`` largest contributions by size as (token, prompt, position, value); NaN comes last."""
        rows = range(len(self)) if prompt is None else [prompt]
        found = [
            (visible_token(token), row, pos, float(self.values[row, pos]))
            for row in rows
            for pos, token in enumerate(self.tokens[row])
        ]
        return sorted(found, key=lambda item: (math.isnan(item[3]), -abs(item[3])))[:k]

    def to_frame(self) -> pd.DataFrame:
        """One row a token: prompt, position, token, value."""
        import pandas as pd

        rows = [
            {"prompt": row, "pos": pos, "token": token, "value": float(self.values[row, pos])}
            for row, tokens in enumerate(self.tokens)
            for pos, token in enumerate(tokens)
        ]
        return pd.DataFrame(rows)

    def plot(self, prompts: int = 12) -> go.Figure:
        """Bars by token of the first ``prompts`` prompts (``interp.plots.plot_tokens``)."""
        return draw("plot_tokens", self, prompts=prompts)

    def to_html(self, prompts: int = 12) -> str:
        """Coloured text of the first ``prompts`` prompts (``interp.plots.token_html``)."""
        text: str = draw("token_html", self, prompts=prompts)
        return text

    def _repr_html_(self) -> str:
        return self.to_html()

    def mean_by_position(self) -> Float[Tensor, "pos"]:
        """Mean over the prompts that have a token at each position."""
        return torch.nanmean(self.values, 0)
