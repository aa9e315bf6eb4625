"""Controls: steerings of the same kind at the same place that know nothing of the concept.

A steering is compared with them at the same KL: what any push of that size does is not its merit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows
from interp.steering.operations import Add, Clamp, Operation, ProjectOut, Rotate, SetNeurons
from interp.steering.steering import Steering, Step, direction_of, place_of
from interp.types import Site

CONTROLS: Mapping[str, str] = {
    "random": "random direction",
    "orthogonal": "orthogonal direction",
    "shuffled": "shuffled labels",
}
"""Kind of control -> how it is called in tables."""


def random_controls(steering: Steering, n: int, seed: int = 0) -> list[Steering]:
    """``n`` steerings at the same places with random directions, Gaussian, as long as its own.

    Adding, clamping, rotating and projecting out keep their kind, set neurons become neurons drawn from all,
    and maps become added directions.
    """
    return [_drawn(steering, "random", _draw(seed, number), {}) for number in range(n)]


def orthogonal_controls(steerings: Sequence[Steering], n: int, seed: int = 0) -> list[Steering]:
    """``n`` random steerings like the first, orthogonal to the directions of all of them.

    Raises :class:`SteeringError` where a step of the first has no one direction, or the directions leave no room.
    """
    first = steerings[0]
    spans = [_directions(step, steerings) for step in first.steps]
    if any(len(span) >= step.operation.d for span, step in zip(spans, first.steps, strict=True)):
        raise SteeringError("the directions span everything; nothing is orthogonal to them.")
    return [
        _drawn(first, "orthogonal", _draw(seed + 1, number), dict(enumerate(spans))) for number in range(n)
    ]


def shuffled_controls(
    steering: Steering, rows: Mapping[Site, ContrastRows], n: int, seed: int = 0
) -> list[Steering]:
    """``n`` steerings along mean differences of the same activations under shuffled labels.

    ``rows`` are a contrast's, by site without positions. Raises :class:`SteeringError` for a step whose site was
    not read, or that has no one direction.
    """
    found = []
    for number in range(n):
        generator = _draw(seed + 2, number)
        shuffled: dict[Site, Tensor] = {}
        steps = []
        for step in steering.steps:
            place = place_of(step.site)
            if place not in rows:
                raise SteeringError(
                    f"{place} was not read; shuffled labels need its activations of both sides."
                )
            if place not in shuffled:
                shuffled[place] = rows[place].shuffled(generator).mean_difference
            length = float(direction_of(step.operation).norm())
            vector = shuffled[place] * (length / shuffled[place].norm())
            steps.append(replace(step, operation=_along(step.operation, vector)))
        found.append(replace(steering, steps=tuple(steps), method="shuffled", calibration=None))
    return found


def has_directions(steering: Steering) -> bool:
    """Whether every step has one direction."""
    try:
        for step in steering.steps:
            direction_of(step.operation)
    except SteeringError:
        return False
    return True


def _draw(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1000 + number)


def _drawn(
    steering: Steering, method: str, generator: torch.Generator, spans: Mapping[int, Float[Tensor, "k d"]]
) -> Steering:
    steps = tuple(
        replace(step, operation=_random_operation(step.operation, generator, spans.get(number)))
        for number, step in enumerate(steering.steps)
    )
    return replace(steering, steps=steps, method=method, calibration=None)


def _random_operation(
    operation: Operation, generator: torch.Generator, span: Float[Tensor, "k d"] | None
) -> Operation:
    if isinstance(operation, SetNeurons):
        chosen = torch.randperm(operation.width, generator=generator)[: len(operation.neurons)]
        return SetNeurons(chosen, operation.values, operation.width)
    if isinstance(operation, ProjectOut) and len(operation.directions) > 1:
        return ProjectOut.span(torch.randn(operation.directions.shape, generator=generator))
    vector = torch.randn(operation.d, generator=generator)
    if span is not None:
        vector = vector - span.T @ (span @ vector)
    try:
        length = float(direction_of(operation).norm())
    except SteeringError:
        length = 1.0
    return _along(operation, vector * (length / vector.norm()))


def _along(operation: Operation, vector: Float[Tensor, " d"]) -> Operation:
    """The same kind of operation with another direction; adding it for a kind that has none."""
    if isinstance(operation, Clamp):
        return Clamp(vector, operation.value)
    if isinstance(operation, Rotate):
        return Rotate(vector)
    if isinstance(operation, ProjectOut):
        return ProjectOut.span(vector)
    return Add(vector)


def _directions(step: Step, steerings: Sequence[Steering]) -> Float[Tensor, "k d"]:
    """Orthonormal rows that span all directions at a step's site."""
    found = [
        direction_of(other.operation).float().cpu()
        for one in steerings
        for other in one.steps
        if place_of(other.site) == place_of(step.site)
    ]
    stacked = torch.stack([vector / vector.norm() for vector in found])
    _, sizes, basis = torch.linalg.svd(stacked, full_matrices=False)
    # equal directions of several methods count once
    return basis[sizes > 1e-4 * sizes[0]]
