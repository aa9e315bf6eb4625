"""The off-target matrix: what each steering does to every value of every attribute."""

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


@dataclass(frozen=True, eq=False)
class OffTarget(Record):
    """What each steering does to every value of every attribute, at one dose.

    Entries are shifts of a value's share in the mass on its attribute's words, so those of one attribute sum to 0.
    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "shifts": ("steering", "value", "end"),
        "unsteered": ("value",),
    }

    steerings: tuple[str, ...]
    """``"sentiment=positive"``; those of controls are named after them."""
    values: tuple[str, ...]
    """``"sentiment=positive"`` ..., all values of one attribute beside one another."""
    shifts: Float[Tensor, "steering value end"]
    """Value, low, high; NaN where the dose was not reached."""
    unsteered: Float[Tensor, " value"]
    """Mean share without steering."""
    controls: tuple[str, ...]
    """Those of the steerings that are controls."""
    dose: float
    confidence: float
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(steering=len(self.steerings), value=len(self.values), end=3)
        if not self.steerings or not self.values:
            raise RecordError("an off-target matrix needs steerings and values; got none.")
        strangers = set(self.controls) - set(self.steerings)
        if strangers:
            raise RecordError(f"controls {sorted(strangers)} are none of the steerings.")

    def __repr__(self) -> str:
        return f"OffTarget({self.summary()})"

    def at(self, steering: str, value: str) -> Estimate:
        """One shift with its interval. Raises :class:`RecordError` for what is not there."""
        if steering not in self.steerings:
            raise RecordError(unknown_name("steering", steering, self.steerings))
        if value not in self.values:
            raise RecordError(unknown_name("value", value, self.values))
        row = self.shifts[self.steerings.index(steering), self.values.index(value)]
        return Estimate(*row.tolist())

    @property
    def on_target(self) -> Float[Tensor, " steering"]:
        """Shift of the value that a steering is named after; NaN for other names."""
        found = torch.full((len(self.steerings),), torch.nan)
        for row, name in enumerate(self.steerings):
            if name in self.values:
                found[row] = self.shifts[row, self.values.index(name), 0]
        return found

    @property
    def off_target(self) -> Float[Tensor, " steering"]:
        """Largest shift, by size, among values of other attributes than the one a steering is named after."""
        found = torch.full((len(self.steerings),), torch.nan)
        for row, name in enumerate(self.steerings):
            attribute = name.partition("=")[0]
            others = [i for i, value in enumerate(self.values) if value.partition("=")[0] != attribute]
            if others:
                found[row] = self.shifts[row, others, 0].abs().max()
        return found

    def summary(self) -> str:
        """A line a steering: what it does on target, and the most it does off target."""
        lines = [f"off-target shifts of shares at {self.dose:g} nats; {self.provenance.summary()}"]
        for name, own, other in zip(self.steerings, self.on_target, self.off_target, strict=True):
            on = "" if bool(own.isnan()) else f"on target {float(own):+.2f}, "
            lines.append(f"{name}: {on}largest elsewhere {float(other):.2f}")
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row a steering and value: shift, low, high, unsteered share, dose."""
        import pandas as pd

        rows = []
        for i, steering in enumerate(self.steerings):
            for j, value in enumerate(self.values):
                shift, low, high = self.shifts[i, j].tolist()
                rows.append(
                    {"steering": steering, "value": value, "shift": shift, "low": low, "high": high}
                    | {"unsteered": float(self.unsteered[j]), "dose": self.dose}
                )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Steerings against values, blue is more (``interp.plots.plot_off_target``)."""
        return draw("plot_off_target", self)
