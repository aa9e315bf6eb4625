"""What steerings bring and what they cost, at equal dose, beside controls that know nothing of the concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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

MEASURES: Mapping[str, str] = {
    "concept": "share of the target value in the mass on its attribute's words, texts of other values",
    "generated": "share of the target value in generated words of its attribute",
    "log odds": "log odds of a held-out probe, negative prompts",
    "attribute words": "mass on words of the attribute where the unsteered model has at least half",
    "retention": "share of the text's own values in the mass on words of other attributes",
    "generated retention": "share of the prompt's own values in generated words of other attributes",
    "legal": "share of generated sentences that the grammar allows",
    "loss": "loss on neutral text, nats a token",
    "kl": "KL(unsteered || steered) on neutral text, nats a token",
    "entropy": "entropy on neutral text, nats a token",
}
"""Name of a measure -> what it is."""
CONCEPT_MEASURES = ("concept", "generated", "log odds")
"""What a steering is to bring about; the first that was measured is the effect in summaries."""
METHOD = "method"
"""Kind of a condition that is no control."""


@dataclass(frozen=True, eq=False)
class SteeringEvaluation(Record):
    """Measures of every condition (method or control) at every dose, with bootstrap intervals.

    The last axis of arrays is value, low, high. Intervals are over prompts or rows of text, those of controls over
    draws too. A dose that no strength reaches is NaN throughout. Raises :class:`RecordError` when the
    fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unsteered": ("measure", "end"),
        "values": ("condition", "dose", "measure", "end"),
        "shifts": ("condition", "dose", "measure", "end"),
        "over_controls": ("condition", "dose", "measure", "end"),
        "strengths": ("condition", "dose"),
    }

    target: str
    """``"sentiment=positive"``, or what the positive prompts are."""
    conditions: tuple[str, ...]
    kinds: tuple[str, ...]
    """Of each condition: ``"method"``, or the kind of control (:data:`interp.steering.evaluate.CONTROLS`)."""
    places: tuple[str, ...]
    """Where and how each acts; controls stand beside the methods of their place."""
    draws: tuple[int, ...]
    """Steerings that each condition is the mean of: 1 but for controls."""
    doses: tuple[float, ...]
    """Nats of KL on neutral text."""
    measures: tuple[str, ...]
    """Of :data:`MEASURES`."""
    unsteered: Float[Tensor, "measure end"]
    values: Float[Tensor, "condition dose measure end"]
    shifts: Float[Tensor, "condition dose measure end"]
    """Less the unsteered model's value on the same prompts."""
    over_controls: Float[Tensor, "condition dose measure end"]
    """Less the mean of all controls of the same place and dose; NaN for controls."""
    strengths: Float[Tensor, "condition dose"]
    """Multiplier of the steering at that dose; of controls the mean."""
    confidence: float
    text: str
    """The neutral text, with a digest."""
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes(
            condition=len(self.conditions), dose=len(self.doses), measure=len(self.measures), end=3
        )
        if not {len(self.kinds), len(self.places), len(self.draws)} == {len(self.conditions)}:
            raise RecordError("kinds, places and draws are one for each condition.")
        if len(set(self.conditions)) < len(self.conditions):
            raise RecordError(f"conditions have names of their own; got {', '.join(self.conditions)}.")
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown:
            raise RecordError(unknown_name("measure", unknown[0], MEASURES))
        if not self.methods or self.effect is None or not self.doses:
            raise RecordError("an evaluation needs a method, a dose and a measure of the concept.")

    def __repr__(self) -> str:
        return f"SteeringEvaluation({self.summary()})"

    @property
    def methods(self) -> tuple[str, ...]:
        """Conditions that are no controls."""
        return tuple(n for n, kind in zip(self.conditions, self.kinds, strict=True) if kind == METHOD)

    @property
    def controls(self) -> tuple[str, ...]:
        """Conditions that are controls."""
        return tuple(n for n, kind in zip(self.conditions, self.kinds, strict=True) if kind != METHOD)

    @property
    def effect(self) -> str | None:
        """The measure of the concept that summaries give."""
        return next((name for name in CONCEPT_MEASURES if name in self.measures), None)

    def at(self, condition: str, dose: float, measure: str, of: str = "values") -> Estimate:
        """One figure with its interval; ``of`` is ``"values"``, ``"shifts"`` or ``"over_controls"``.

        Raises :class:`RecordError` for what is not there.
        """
        for kind, name, known in (
            ("condition", condition, self.conditions),
            ("measure", measure, self.measures),
            ("array", of, ("values", "shifts", "over_controls")),
        ):
            if name not in known:
                raise RecordError(unknown_name(kind, name, known))
        if dose not in self.doses:
            raise RecordError(f"doses are {', '.join(f'{d:g}' for d in self.doses)}; got {dose:g}.")
        row, column = self.conditions.index(condition), self.doses.index(dose)
        return Estimate(*getattr(self, of)[row, column, self.measures.index(measure)].tolist())

    def gain_per_nat(self, condition: str, dose: float) -> float:
        """Shift of the effect for each nat of KL. Raises as :meth:`at`."""
        assert self.effect is not None
        return self.at(condition, dose, self.effect, "shifts").value / dose

    @property
    def unreached(self) -> tuple[str, ...]:
        """Conditions and doses that no strength reached: ``"project-out at 2 nats"``."""
        missing = self.strengths.isnan().nonzero().tolist()
        return tuple(f"{self.conditions[row]} at {self.doses[column]:g} nats" for row, column in missing)

    def summary(self) -> str:
        """A line a method: effect, its lead over the controls and the loss at the largest dose that all reach."""
        assert self.effect is not None
        whole = [
            column for column in range(len(self.doses)) if not bool(self.strengths[:, column].isnan().any())
        ]
        dose = self.doses[whole[-1] if whole else 0]
        base = float(self.unsteered[self.measures.index(self.effect), 0])
        lines = [f"{self.target} at {dose:g} nats: {self.effect}, unsteered {base:.2f}"]
        for name in self.conditions:
            parts = [str(self.at(name, dose, self.effect))]
            if name in self.methods and self.controls:
                parts.append(f"over controls {self.at(name, dose, self.effect, 'over_controls')}")
            if "loss" in self.measures:
                parts.append(f"loss {self.at(name, dose, 'loss', 'shifts').value:+.3f}")
            lines.append(f"{name}: {', '.join(parts)}")
        return "\n".join([*lines, *(f"not reached: {one}" for one in self.unreached)])

    def to_frame(self) -> pd.DataFrame:
        """One row a condition, dose and measure.

        Columns: target, condition, kind, place, draws, dose, strength, measure, value, low, high, shift,
        shift_low, shift_high, over_controls, over_controls_low, over_controls_high, shift_per_nat, unsteered.
        """
        import pandas as pd

        rows = []
        for i, condition in enumerate(self.conditions):
            for j, dose in enumerate(self.doses):
                for m, measure in enumerate(self.measures):
                    row: dict[str, object] = {"target": self.target, "condition": condition}
                    row |= {"kind": self.kinds[i], "place": self.places[i], "draws": self.draws[i]}
                    row |= {"dose": dose, "strength": float(self.strengths[i, j]), "measure": measure}
                    for name, part in (
                        ("", self.values),
                        ("shift", self.shifts),
                        ("over_controls", self.over_controls),
                    ):
                        ends = part[i, j, m].tolist()
                        names = (name or "value", *(f"{name}_{e}".lstrip("_") for e in ("low", "high")))
                        row |= dict(zip(names, ends, strict=True))
                    row["shift_per_nat"] = float(self.shifts[i, j, m, 0]) / dose
                    row["unsteered"] = float(self.unsteered[m, 0])
                    rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Dose against effect, and effect against loss (``interp.plots.plot_steering_evaluation``)."""
        return draw("plot_steering_evaluation", self)
