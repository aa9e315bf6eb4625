"""How a training run went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class TrainingHistory(Record):
    """Loss and held-out measures over a training run.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"steps": ("step",), "loss": ("step",)}

    steps: Int[Tensor, "step"]
    """Optimiser steps at which something was measured, rising."""
    loss: Float[Tensor, "step"]
    """Training loss, nats a token."""
    provenance: Provenance
    held_out: dict[str, Float[Tensor, "step"]] = field(default_factory=dict)
    """Measures on held-out data: ``"loss"`` in nats, others shares from 0 to 1 (``"IOI accuracy"``);
    NaN at steps where one was not measured."""

    def __post_init__(self) -> None:
        self._check_axes()
        n = self.steps.shape[0]
        if n == 0 or bool((self.steps.diff() <= 0).any()):
            raise RecordError("TrainingHistory needs rising steps, at least one.")
        wrong = {name: tuple(curve.shape) for name, curve in self.held_out.items() if curve.shape != (n,)}
        if wrong:
            raise RecordError(
                f"every held-out measure must have one number for each of {n} steps; got {wrong}."
            )

    def to_frame(self) -> pd.DataFrame:
        """One row a step, one column a measure (``held out: name``)."""
        import pandas as pd

        held_out = {f"held out: {name}": curve.tolist() for name, curve in self.held_out.items()}
        return pd.DataFrame({"step": self.steps.tolist(), "loss": self.loss.tolist(), **held_out})

    def plot(self) -> go.Figure:
        """Curves over steps (``interp.plots.plot_training_curve``)."""
        return draw("plot_training_curve", self)
