"""Hypothesis tests of a circuit: what was tested, what was seen, and what it was compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.errors import CircuitError, unknown_name
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

IDEAL_KEEPS = {
    "equivalence": True,
    "independence": True,
    "minimality": True,
    "sufficiency": False,
    "partial necessity": False,
}
"""Whether the null hypothesis of a test holds of an ideal circuit; where not, rejecting it speaks for one."""


@dataclass(frozen=True, eq=False)
class HypothesisTest(Record):
    """One test of a circuit (Shi et al. 2024, arXiv 2410.13032).

    A null hypothesis that is not rejected is not shown to be true: with few prompts or draws nothing is ever
    rejected. Raises :class:`CircuitError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "observed": ("item",),
        "p_values": ("item",),
        "reference": ("draw",),
    }

    name: str
    """``"equivalence"``, ``"independence"``, ``"minimality"``, ``"sufficiency"`` or ``"partial necessity"``."""
    null: str
    """The null hypothesis in words."""
    statistic: str
    """What :attr:`observed` and :attr:`reference` are, in words."""
    items: tuple[str, ...]
    """What was tested, one hypothesis each: the circuit, or every edge of it."""
    observed: Float[Tensor, " item"]
    p_values: Float[Tensor, " item"]
    """Corrected for the number of items."""
    reference: Float[Tensor, " draw"]
    """What it is compared with: the bounds of the null hypothesis, permutations or random circuits."""
    alpha: float
    """Level of the test."""
    n: int
    """Prompts, or draws where they are what is counted."""
    correction: str
    """For the number of items: ``"none"``, ``"holm"`` or ``"bonferroni"``."""
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.name not in IDEAL_KEEPS:
            raise CircuitError(unknown_name("test of a circuit", self.name, IDEAL_KEEPS))
        if not self.items:
            raise CircuitError(f"the {self.name} test has nothing to test.")
        self._check_axes(item=len(self.items))

    @property
    def p_value(self) -> float:
        """Of the hypothesis that the null holds for every item: the smallest corrected one."""
        return float(self.p_values.min())

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected, for any item, at level :attr:`alpha`."""
        return self.p_value <= self.alpha

    @property
    def rejected_items(self) -> tuple[str, ...]:
        """Items whose null hypothesis is rejected, the smallest p-value first."""
        order = self.p_values.argsort(stable=True).tolist()
        return tuple(self.items[i] for i in order if float(self.p_values[i]) <= self.alpha)

    @property
    def holds(self) -> bool:
        """Whether the outcome is that of an ideal circuit."""
        return self.rejected != IDEAL_KEEPS[self.name]

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        against, shown = self.rejected, len(self.rejected_items)
        return {
            "equivalence": ("circuit and model differ", "no difference shown"),
            "independence": ("the rest of the model still follows it", "no dependence shown"),
            "minimality": (f"{shown} of {len(self.items)} edges not needed", "no edge shown to be unneeded"),
            "sufficiency": ("better than random circuits", "not shown better than random circuits"),
            "partial necessity": (
                "needed more than random circuits",
                "not shown needed more than random ones",
            ),
        }[self.name][0 if against else 1]

    def to_frame(self) -> pd.DataFrame:
        """One row an item: test, item, observed, p-value, rejected."""
        import pandas as pd

        return pd.DataFrame(
            {
                "test": self.name,
                "item": self.items,
                "observed": self.observed.tolist(),
                "p_value": self.p_values.tolist(),
                "rejected": (self.p_values <= self.alpha).tolist(),
            }
        )

    def summary(self) -> str:
        """One line: test, p-value, and what it means."""
        return f"{self.name}: p = {self.p_value:.2g}, {self.verdict}"

    def plot(self) -> go.Figure:
        """What was seen against what it is compared with (``interp.plots.plot_hypothesis_test``)."""
        return draw("plot_hypothesis_test", self)
