"""The type everything here makes and applies: steps at sites, with their dose and where they came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.gates import Gate
from interp.steering.operations import Add, Clamp, Operation, ProjectOut, Rotate
from interp.steering.places import Where
from interp.types import PATTERN_COMPONENTS, Position, Site, SiteLike, parse_site, parse_sites

if TYPE_CHECKING:
    from interp.steering.apply import Applied

Strength = float | Sequence[float] | Float[Tensor, " batch"]
"""One number, or one for each row of the batch."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation at one site.

    Raises :class:`SteeringError` for a site that is not one layer's activation, and a weight that is not finite.
    """

    site: Site
    """With one layer; its positions and rows bound where it acts (every token without any)."""
    operation: Operation
    weight: float = 1.0
    """Multiplies the strength of this step: the layer's weight."""
    where: Where | None = None
    """Narrows the positions by a rule."""
    gate: Gate | None = None
    """Decides for every prompt how much of it acts."""
    channel: int = 0
    """Which of the gate's factors is this step's."""

    def __post_init__(self) -> None:
        site = self.site
        if not math.isfinite(self.weight):
            raise SteeringError(f"a step's weight is a finite number; got {self.weight} at {site}.")
        if site.component in PATTERN_COMPONENTS or site.latents is not None:
            raise SteeringError(f"steering acts on vectors of tokens; {site} is none. Take resid_post, z ...")
        if site.layer is None and site.component != "embed":
            raise SteeringError(f"a step acts in one layer; {site} names all. Make a step for each.")
        if site.subspace is not None:
            raise SteeringError(f"a step's operation says what it changes; {site} also has a subspace.")
        if self.gate is not None and not 0 <= self.channel < self.gate.n_channels:
            raise SteeringError(
                f"the gate has {self.gate.n_channels} channels; a step asks for number {self.channel}."
            )

    def __str__(self) -> str:
        return f"{self.operation.kind}({self.site})"


@dataclass(frozen=True, eq=False)
class Steering:
    """What is done to a model's activations, in order, and how its dose is measured.

    Made by :func:`interp.extract_steering` and the other extractions and learners, or by hand from
    :class:`Step`. Applied by::

        with steering.apply(model, dose=0.5):  # nats of KL on neutral text
            tokens = model.generate("The baker")

    A strength multiplies every step's ``weight``: 0 changes nothing, 1 is the steering as it was extracted.
    Raises :class:`SteeringError` without a step.
    """

    steps: tuple[Step, ...]
    method: str = "custom"
    """How it was found: ``"mean-difference"`` ..."""
    calibration: DoseCalibration | None = None
    """KL to the unsteered model by strength; ``None`` until :meth:`calibrate`."""
    model_digest: str | None = None
    """Of the weights it was made for; ``None`` where it may be put into any model."""
    data: str | None = None
    """What it was extracted from, with a digest."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers of its extraction: AUC on held-out prompts, bootstrap stability ..."""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise SteeringError("a steering needs at least one step; got none.")

    def __repr__(self) -> str:
        steps = ", ".join(map(str, self.steps[:4])) + (", ..." if len(self.steps) > 4 else "")
        dose = "no dose calibrated" if self.calibration is None else self.calibration.summary()
        return f"Steering({self.method}: {steps}; {dose})"

    def __add__(self, other: Steering) -> Steering:
        """This one, then the other: both act, the steps at one site in this order."""
        if not isinstance(other, Steering):
            return NotImplemented
        digests = {one.model_digest for one in (self, other)} - {None}
        if len(digests) > 1:
            raise SteeringError("the two steerings were made for different models; they cannot act together.")
        method = f"{self.method} + {other.method}"
        return Steering(self.steps + other.steps, method, model_digest=next(iter(digests), None))

    def apply(
        self,
        model: Model,
        dose: Strength | None = None,
        *,
        strength: Strength | None = None,
        labels: Mapping[str, Int[Tensor, " batch"]] | None = None,
        any_model: bool = False,
    ) -> AbstractContextManager[Applied]:
        """Steer every forward of ``model`` inside a block, plain and generating, cached and not.

        Give ``dose``, nats of KL to the unsteered model on neutral text (as calibrated; negative: the other
        way), or ``strength``; one number, or one for each row of the batch. ``labels`` (of a task) give the
        positions behind names like ``S2``. Raises :class:`SteeringError` for neither or both, a dose that was
        not calibrated or reached, and a model of other weights unless ``any_model``.
        """
        from interp.steering.apply import apply_rows

        return apply_rows(model, self, dose, strength=strength, labels=labels, any_model=any_model)

    def strength_for(self, dose: Strength) -> float | Float[Tensor, " batch"]:
        """The strength that has this dose, by the calibration. Raises :class:`SteeringError` without one."""
        if self.calibration is None:
            raise SteeringError(
                f"this steering ({self.method}) has no dose: it was changed or made by hand since it was calibrated. "
                "Call steering.calibrate(model), or give strength=... instead of dose."
            )
        if isinstance(dose, int | float):
            return self.calibration.strength_for(float(dose))
        return torch.tensor([self.calibration.strength_for(float(one)) for one in dose])

    def calibrate(self, model: Model, neutral: object = None, **options: object) -> Steering:
        """The same with its dose measured on neutral text: :func:`interp.calibrate_dose`."""
        from interp.steering.dose import calibrate_dose

        return calibrate_dose(model, self, neutral, **options)  # type: ignore[arg-type]

    def _with_steps(self, steps: Iterable[Step]) -> Steering:
        return replace(self, steps=tuple(steps), calibration=None)

    def at(self, *positions: Position) -> Steering:
        """The same at other positions (``"gen"``, ``-1``, ``Span(2, 5)``, a task's label); to be calibrated anew."""
        return self._with_steps(
            replace(step, site=step.site.at(*positions) if positions else replace(step.site, positions=None))
            for step in self.steps
        )

    def narrowed(self, where: Where | None) -> Steering:
        """The same only where a rule says: a text pattern, the end of an instruction; to be calibrated anew."""
        return self._with_steps(replace(step, where=where) for step in self.steps)

    def gated(self, gate: Gate | None) -> Steering:
        """The same under a gate, each step with a channel of its own if the gate has several.

        The calibration stays: a dose is that of a prompt that is steered in full. Raises :class:`SteeringError` for a
        gate of several channels that are not as many as the steps.
        """
        # fewer channels than steps are refused by the first step without one
        if gate is not None and gate.n_channels > len(self.steps):
            raise SteeringError(
                f"the gate has {gate.n_channels} channels for {len(self.steps)} steps; it has one, or one for each."
            )
        steps = tuple(
            replace(step, gate=gate, channel=number if gate is not None and gate.n_channels > 1 else 0)
            for number, step in enumerate(self.steps)
        )
        return replace(self, steps=steps)

    def weighted(self, weights: Sequence[float] | Mapping[int, float]) -> Steering:
        """The same with a weight for every step, or for those in certain layers; to be calibrated anew.

        A step at ``embed`` is in no layer.

        Raises :class:`SteeringError` for a number of weights that is not the number of steps, and for a layer
        in which there is no step.
        """
        if isinstance(weights, Mapping):
            layers = {step.site.layer for step in self.steps} - {None}
            strangers = [layer for layer in weights if layer not in layers]
            if strangers:
                raise SteeringError(f"weights are given for layers {strangers}, where no step acts.")
            listed = [
                step.weight if step.site.layer is None else weights.get(step.site.layer, step.weight)
                for step in self.steps
            ]
        else:
            listed = list(weights)
        if len(listed) != len(self.steps):
            raise SteeringError(f"got {len(listed)} weights for {len(self.steps)} steps; give one for each.")
        return self._with_steps(
            replace(step, weight=float(weight)) for step, weight in zip(self.steps, listed, strict=True)
        )

    def using(self, operation: str, value: float = 0.0) -> Steering:
        """The same directions with another operation; to be calibrated anew.

        ``"add"``, ``"project-out"``, ``"rotate"``, or ``"clamp"`` to ``value``. Raises :class:`SteeringError` for
        steps that have no one direction, and for other operations.
        """
        make = {
            Add.kind: Add,
            ProjectOut.kind: ProjectOut.span,
            Rotate.kind: Rotate,
            Clamp.kind: lambda direction: Clamp(direction, value),
        }
        if operation not in make:
            raise SteeringError(f"a direction can be used to {', '.join(make)}; got {operation!r}.")
        return self._with_steps(
            replace(step, operation=make[operation](direction_of(step.operation))) for step in self.steps
        )

    def direction(self, site: SiteLike | None = None) -> Float[Tensor, " d"]:
        """The direction at a site, of the length it has; the only one if no site is given.

        Raises :class:`SteeringError` where there is no one such step, or it has no one direction.
        """
        wanted = None if site is None else parse_site(site)
        found = [s for s in self.steps if wanted is None or _same_place(s.site, wanted)]
        if len(found) != 1:
            here = ", ".join(str(step.site) for step in self.steps)
            raise SteeringError(f"{len(found)} steps at {site or 'any site'}; this steering acts at {here}.")
        return direction_of(found[0].operation)

    def save(self, path: str | Path) -> Path:
        """Write it to one safetensors file: :func:`interp.load_steering` reads it again."""
        from interp.steering.files import save_steering

        return save_steering(self, path)


def direction_of(operation: Operation) -> Float[Tensor, " d"]:
    """The one direction of an operation. Raises :class:`SteeringError` where it has none, or several."""
    if isinstance(operation, Add):
        return operation.vector
    if isinstance(operation, Clamp | Rotate):
        return operation.direction
    if isinstance(operation, ProjectOut) and len(operation.directions) == 1:
        return operation.directions[0]
    raise SteeringError(f"{operation.kind} has no one direction.")


def _same_place(one: Site, other: Site) -> bool:
    return (one.component, one.layer, one.head) == (other.component, other.layer, other.head)


def place_of(site: Site) -> Site:
    """The site without positions and rows."""
    return replace(site, positions=None, rows=None)


def steer_with(
    operations: Mapping[SiteLike, Operation], *, method: str = "custom", **options: object
) -> Steering:
    """A steering from operations by site, in this order; ``options`` are fields of :class:`Steering`.

    A site that names several layers puts the operation into each.
    """
    steps = [Step(site, one) for key, one in operations.items() for site in parse_sites(key)]
    return Steering(tuple(steps), method, **options)  # type: ignore[arg-type]
