"""Whether relevance adds up to the output at every depth of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Conservation(Record):
    """Relevance at every cut of the residual stream, and what enters below it and leaves above it.

    ``relevance + biases - attention = output`` within rounding where every rule conserves; all
    numbers are means over prompts, in units of the metric. Raises :class:`RecordError` when the fields
    do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "relevance": ("cut",),
        "biases": ("cut",),
        "attention": ("cut",),
    }

    cuts: tuple[str, ...]
    """``resid_pre[0]`` ... and the last ``resid_post``."""
    relevance: Float[Tensor, "cut"]
    """Sum over positions of activation times coefficient."""
    biases: Float[Tensor, "cut"]
    """Relevance of the biases that come in after the cut."""
    attention: Float[Tensor, "cut"]
    """What the attention products after the cut add to the relevance that passes them: without the
    AH-rule a pattern and the values it weighs both claim the same output."""
    output: float
    """Logits that the metric reads times their gradient; the metric itself where it is linear in them."""
    provenance: Provenance
    """``method`` names the rules."""
    run: str | None = None
    """``"clean"`` or ``"corrupted"``: whose relevance it is."""

    def __post_init__(self) -> None:
        self._check_axes(cut=len(self.cuts))
        if not self.cuts:
            raise RecordError("Conservation needs at least one cut.")

    @property
    def gaps(self) -> Float[Tensor, "cut"]:
        """What no account explains: ``relevance + biases - attention - output``."""
        return self.relevance + self.biases - self.attention - self.output

    @property
    def largest_gap(self) -> float:
        """The largest gap in size, as a share of the largest amount in the account."""
        size = max(
            *(float(x.abs().max()) for x in (self.relevance, self.biases, self.attention)), abs(self.output)
        )
        return float(self.gaps.abs().max()) / size if size else 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row a cut: relevance, biases, attention, output, gap."""
        import pandas as pd

        return pd.DataFrame(
            {
                "cut": self.cuts,
                "relevance": self.relevance.tolist(),
                "biases": self.biases.tolist(),
                "attention": self.attention.tolist(),
                "output": self.output,
                "gap": self.gaps.tolist(),
            }
        )

    def plot(self) -> go.Figure:
        """The account at every cut (``interp.plots.plot_conservation``)."""
        return draw("plot_conservation", self)
