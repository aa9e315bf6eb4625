"""How well an approximate method agrees with exact patching on the same sites."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:z.2f} [{self.low:z.2f}, {self.high:z.2f}]"


SITE_EFFECT = "recovered score, less that of having done nothing"


@dataclass(frozen=True, eq=False)
class MethodAgreement(Record):
    """Approximate against exact effects of the same sites or edges, and their agreement.

    ``effect`` says what the numbers are. Raises :class:`RecordError`
    when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"exact": ("site",), "approximate": ("site",)}

    names: tuple[str, ...]
    """``"L9H6"``, ``"resid_pre L4 @ 10 ·Mary"`` ..."""
    exact: Float[Tensor, "site"]
    approximate: Float[Tensor, "site"]
    pearson: Estimate
    spearman: Estimate
    sign_agreement: Estimate
    """Share of sites where both effects have the same sign, 0 to 1."""
    confidence: float
    """Coverage of the intervals, e.g. 0.95."""
    provenance: Provenance
    """``method`` names the approximation."""
    chosen_as: tuple[str, ...] = ()
    """Why each site was checked: ``"top"`` or ``"random"``; empty when all were."""
    top_overlap: Estimate | None = None
    """Share of the ``k`` sites that the approximation ranks first which exact patching does too,
    among those checked."""
    k: int | None = None
    n_sites: int | None = None
    """Sites that there were to choose from."""
    effect: str = SITE_EFFECT
    """What the effects are, for people."""

    def __post_init__(self) -> None:
        self._check_axes(site=len(self.names))
        if not self.names:
            raise RecordError("MethodAgreement needs at least one site.")
        if self.chosen_as and len(self.chosen_as) != len(self.names):
            raise RecordError(f"chosen_as has {len(self.chosen_as)} entries for {len(self.names)} sites.")

    def summary(self) -> str:
        """One line: correlations, sign agreement and overlap, with their intervals."""
        parts = [
            f"Pearson {self.pearson}",
            f"Spearman {self.spearman}",
            f"sign agreement {self.sign_agreement}",
        ]
        if self.top_overlap is not None:
            parts.append(f"top-{self.k} overlap {self.top_overlap}")
        checked = f"{len(self.names)} sites checked" + (f" of {self.n_sites}" if self.n_sites else "")
        return f"{', '.join(parts)} ({self.confidence:.0%} bootstrap intervals, {checked})"

    def to_frame(self) -> pd.DataFrame:
        """One row a site: name, exact and approximate effect, why it was chosen."""
        import pandas as pd

        return pd.DataFrame(
            {
                "name": self.names,
                "exact": self.exact.tolist(),
                "approximate": self.approximate.tolist(),
                "chosen_as": self.chosen_as or ("all",) * len(self.names),
            }
        )

    def plot(self) -> go.Figure:
        """Scatter with y = x (``interp.plots.plot_agreement``)."""
        return draw("plot_agreement", self)
