"""What MLP neurons write, read as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float, Int
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
class ValueVectors(Record):
    """Neurons whose value vectors promote target tokens most, the best first.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "layer": ("neuron",),
        "neuron": ("neuron",),
        "score": ("neuron",),
        "norm": ("neuron",),
        "token_ids": ("neuron", "rank"),
        "token_scores": ("neuron", "rank"),
    }

    layer: Int[Tensor, "neuron"]
    neuron: Int[Tensor, "neuron"]
    score: Float[Tensor, "neuron"]
    """Mean of the target tokens, in standard deviations of the neuron's logits over the vocabulary, from their
    mean; less that of the tokens ``against``."""
    norm: Float[Tensor, "neuron"]
    """Length of the value vector in the residual stream."""
    token_ids: Int[Tensor, "neuron rank"]
    """Tokens that the neuron promotes most when it is above 0, the first first."""
    token_scores: Float[Tensor, "neuron rank"]
    """In standard deviations, as ``score``."""
    tokens: tuple[tuple[str, ...], ...]
    """The same as text."""
    target: tuple[str, ...]
    """Tokens that neurons were chosen for."""
    d_mlp: int
    provenance: Provenance
    against: tuple[str, ...] = ()
    """Tokens whose score was taken off."""

    def __post_init__(self) -> None:
        self._check_axes()
        if not len(self.layer) or len(self.tokens) != len(self.layer):
            raise RecordError(
                f"value vectors have at least one neuron, and tokens of each; got {len(self.layer)} and "
                f"{len(self.tokens)}."
            )

    def __repr__(self) -> str:
        return f"ValueVectors({self.summary()})"

    @property
    def names(self) -> tuple[str, ...]:
        """``"L2N413"`` ..."""
        return tuple(f"L{a}N{b}" for a, b in zip(self.layer.tolist(), self.neuron.tolist(), strict=True))

    def in_layer(self, layer: int) -> Int[Tensor, " neuron"]:
        """Those neurons that lie in a layer, rising."""
        return self.neuron[self.layer == layer].sort().values

    def summary(self) -> str:
        """One line: how many, the best with its tokens."""
        words = " ".join(visible_token(token) for token in self.tokens[0][:4])
        return (
            f"{len(self.layer)} neurons for {', '.join(self.target[:4])}{', ...' * (len(self.target) > 4)}; best "
            f"{self.names[0]} at {float(self.score[0]):.1f} sd ({words}); {self.provenance.summary()}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a neuron: name, layer, neuron, score, norm, its tokens."""
        import pandas as pd

        return pd.DataFrame(
            {
                "name": self.names,
                "layer": self.layer.tolist(),
                "neuron": self.neuron.tolist(),
                "score": self.score.tolist(),
                "norm": self.norm.tolist(),
                "tokens": [" ".join(map(visible_token, row)) for row in self.tokens],
            }
        )

    def plot(self) -> go.Figure:
        """Scores as bars, and the tokens that name each (``interp.plots.plot_value_vectors``)."""
        return draw("plot_value_vectors", self)
