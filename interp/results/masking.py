"""Whether what an attribution ranks first matters more than what it ranks last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.errors import RecordError
from interp.results.agreement import Estimate
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class MaskingCheck(Record):
    """Damage to the metric when the first, the last or random places of a ranking are masked.

    After DiffROAR (Shah, Jain and Netrapalli 2021, arXiv 2102.12781), whose assumption (A) is that
    masking what ranks first does more damage than masking what ranks last; here the model is not
    trained again. Damage is the absolute change of the metric, in its own units. Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "most": ("fraction", "prompt"),
        "least": ("fraction", "prompt"),
        "random": ("fraction", "draw", "prompt"),
    }

    what: str
    """What was ranked: ``"tokens"``, or a site such as ``"z"``."""
    fractions: tuple[float, ...]
    """Share of the places masked."""
    most: Float[Tensor, "fraction prompt"]
    least: Float[Tensor, "fraction prompt"]
    random: Float[Tensor, "fraction draw prompt"]
    gaps: tuple[Estimate, ...]
    """Mean over prompts of ``most - least`` at every fraction, with bootstrap intervals over prompts."""
    confidence: float
    provenance: Provenance
    """``method`` made the ranking; ``ablation`` is what places were masked with."""

    def __post_init__(self) -> None:
        self._check_axes(fraction=len(self.fractions))
        if not self.fractions or len(self.gaps) != len(self.fractions):
            raise RecordError(
                f"MaskingCheck has {len(self.gaps)} gaps for {len(self.fractions)} fractions; expected one each."
            )

    @property
    def holds(self) -> tuple[bool, ...]:
        """Whether the interval of each gap lies above 0: the ranking tells first from last."""
        return tuple(gap.low > 0 for gap in self.gaps)

    def to_frame(self) -> pd.DataFrame:
        """One row a fraction: mean damage of the first, the last and random places, and the gap."""
        import pandas as pd

        return pd.DataFrame(
            {
                "fraction": self.fractions,
                "most": self.most.mean(1).tolist(),
                "least": self.least.mean(1).tolist(),
                "random": self.random.mean((1, 2)).tolist(),
                "gap": [gap.value for gap in self.gaps],
                "gap_low": [gap.low for gap in self.gaps],
                "gap_high": [gap.high for gap in self.gaps],
                "holds": self.holds,
            }
        )

    def summary(self) -> str:
        """One line: the gap at every fraction, and whether it holds."""
        parts = [
            f"{fraction:.0%}: {gap}{'' if holds else ' (no difference shown)'}"
            for fraction, gap, holds in zip(self.fractions, self.gaps, self.holds, strict=True)
        ]
        return f"damage of the first minus the last {self.what}: " + ", ".join(parts)

    def plot(self) -> go.Figure:
        """Damage over the share masked (``interp.plots.plot_masking``)."""
        return draw("plot_masking", self)
