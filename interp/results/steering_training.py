"""How the training of a learned steering went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
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
class SteeringTraining(Record):
    """Loss of every part (a site, or the data) over steps, and other measures.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"steps": ("step",), "losses": ("step", "part")}

    steps: Int[Tensor, "step"]
    """Steps done when a row was written, rising."""
    losses: Float[Tensor, "step part"]
    """Loss of every part; the loss that is trained on is their mean."""
    parts: tuple[str, ...]
    """Names of the parts: sites, in the order of the forward."""
    loss_name: str
    """What the loss is, with its unit."""
    provenance: Provenance
    measures: dict[str, Float[Tensor, "step"]] = field(default_factory=dict)
    """Other numbers by name: ``"kept share"`` of neurons that a sparse map changes ..."""

    def __post_init__(self) -> None:
        self._check_axes(part=len(self.parts))
        n = self.steps.shape[0]
        if n == 0 or bool((self.steps.diff() <= 0).any()):
            raise RecordError("SteeringTraining needs rising steps, at least one.")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise RecordError(f"SteeringTraining needs a different name for every part; got {self.parts}.")
        wrong = {name: tuple(curve.shape) for name, curve in self.measures.items() if curve.shape != (n,)}
        if wrong:
            raise RecordError(f"every measure must have one number for each of {n} steps; got {wrong}.")

    def __repr__(self) -> str:
        return f"SteeringTraining({self.summary()})"

    @property
    def loss(self) -> Float[Tensor, "step"]:
        """The loss that was trained on: the mean over parts."""
        return self.losses.mean(1)

    def summary(self) -> str:
        """One line: first and last loss, and the last measures."""
        loss = self.loss
        ends = "".join(f", {name} {float(curve[-1]):.4g}" for name, curve in self.measures.items())
        return f"{int(self.steps[-1])} steps, loss {float(loss[0]):.4g} -> {float(loss[-1]):.4g}{ends}"

    def to_frame(self) -> pd.DataFrame:
        """One row a step: step, loss, ``loss: part`` for every part, every measure."""
        import pandas as pd

        parts = {f"loss: {name}": self.losses[:, i].tolist() for i, name in enumerate(self.parts)}
        measures = {name: curve.tolist() for name, curve in self.measures.items()}
        return pd.DataFrame({"step": self.steps.tolist(), "loss": self.loss.tolist(), **parts, **measures})

    def plot(self) -> go.Figure:
        """Loss of every part over steps (``interp.plots.plot_steering_training``)."""
        return draw("plot_steering_training", self)


class SteeringLog:
    """Rows of a fit as they come; :meth:`record` makes the record of what there is so far.

    ::

        log = interp.SteeringLog()
        steering = interp.fit_lineas(model, source, target, "resid_post", log=log)
        log.record().plot()
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._rows: list[dict[str, float]] = []
        self._measures: list[dict[str, float]] = []
        self.loss_name = "loss"
        self.provenance = Provenance(model="unknown")

    def __len__(self) -> int:
        return len(self._steps)

    def begin(self, loss_name: str, provenance: Provenance) -> None:
        """Say what is being fitted. Raises :class:`RecordError` for a log that already has rows."""
        if self._steps:
            raise RecordError("a log holds one fit; give each a new SteeringLog().")
        self.loss_name, self.provenance = loss_name, provenance

    def append(self, step: int, losses: Mapping[str, float], measures: Mapping[str, float]) -> None:
        """Loss of every part and other numbers after ``step`` steps. Raises :class:`RecordError` for other parts."""
        if self._rows and (set(self._rows[0]) != set(losses) or set(self._measures[0]) != set(measures)):
            raise RecordError(
                f"the log's rows have {[*self._rows[0], *self._measures[0]]}; got {[*losses, *measures]}."
            )
        self._steps.append(step)
        self._rows.append(dict(losses))
        self._measures.append(dict(measures))

    def record(self) -> SteeringTraining:
        """What was appended so far, as a record. Raises :class:`RecordError` where there is nothing."""
        if not self._rows:
            raise RecordError("the log is empty: nothing has been fitted with it yet.")
        parts = tuple(self._rows[0])
        losses = torch.tensor([[row[name] for name in parts] for row in self._rows], dtype=torch.float64)
        measures = {
            name: torch.tensor([row[name] for row in self._measures], dtype=torch.float64)
            for name in self._measures[0]
        }
        steps = torch.tensor(self._steps, dtype=torch.long)
        return SteeringTraining(steps, losses, parts, self.loss_name, self.provenance, measures)
