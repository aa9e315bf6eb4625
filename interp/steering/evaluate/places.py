"""Methods that act at one place in one way, and the controls that stand beside all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.errors import SteeringError, unknown_name
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.steering.contrast import ContrastRows, read_contrast
from interp.steering.evaluate.controls import (
    CONTROLS,
    has_directions,
    orthogonal_controls,
    random_controls,
    shuffled_controls,
)
from interp.steering.kl import names_generated
from interp.steering.steering import Steering, place_of
from interp.steering.world import contrast_prompts
from interp.types import Site

_WORLD_CONTRAST = 128
"""Prompts a side that labels are shuffled of, where none are given."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One line of the table: a method, or several draws of one kind of control."""

    name: str
    kind: str
    place: str
    steerings: tuple[Steering, ...]


def describe_place(steering: Steering) -> str:
    """Where and how it acts, the same for all that can share controls: ``"add(resid_post[1])"``."""
    parts = []
    for step in steering.steps:
        extras = [str(step.where)] if step.where is not None else []
        extras += [f"weight {step.weight:g}"] if step.weight != 1 else []
        extras += ["gated"] if step.gate is not None else []
        parts.append(" ".join([str(step), *extras]))
    return parts[0] if len(parts) == 1 else f"{parts[0]} and {len(parts) - 1} more, " + ", ".join(parts[1:])


def list_conditions(
    steerings: Mapping[str, Steering],
    kinds: Sequence[str],
    rows: Mapping[Site, ContrastRows] | None,
    draws: int,
    seed: int,
) -> tuple[list[Condition], list[str]]:
    """Methods in their order, then the controls of every place; and what could not be made, in words."""
    by_place: dict[str, list[Steering]] = {}
    for one in steerings.values():
        by_place.setdefault(describe_place(one), []).append(one)
    methods = [Condition(name, "method", describe_place(one), (one,)) for name, one in steerings.items()]
    names = {place: _short(group[0]) for place, group in by_place.items()}
    if len(set(names.values())) < len(names):
        names = {place: place for place in names}
    controls, missing = [], []
    for place, group in by_place.items():
        for kind in kinds:
            why = _why_not(kind, group[0], rows)
            if why is not None:
                missing.append(f"no control of kind {kind!r} at {place}: {why}")
                continue
            name = CONTROLS[kind] + ("" if len(by_place) == 1 else f" at {names[place]}")
            made = _make(kind, group, rows, draws, seed)
            controls.append(Condition(name, kind, place, tuple(made)))
    return [*methods, *controls], missing


def _short(steering: Steering) -> str:
    """Its sites; of several layers of one kind the component."""
    sites = list(dict.fromkeys(str(place_of(step.site)) for step in steering.steps))
    components = list(dict.fromkeys(step.site.component for step in steering.steps))
    return sites[0] if len(sites) == 1 else ", ".join(components)


def _why_not(kind: str, steering: Steering, rows: Mapping[Site, ContrastRows] | None) -> str | None:
    if kind != "random" and not has_directions(steering):
        return "its steps have no one direction"
    if kind == "shuffled":
        read = {} if rows is None else rows
        absent = [str(step.site) for step in steering.steps if place_of(step.site) not in read]
        if absent:
            return f"no activations of both sides at {', '.join(absent)}; give contrast="
    return None


def _make(
    kind: str,
    group: Sequence[Steering],
    rows: Mapping[Site, ContrastRows] | None,
    draws: int,
    seed: int,
) -> list[Steering]:
    if kind == "random":
        return random_controls(group[0], draws, seed)
    if kind == "orthogonal":
        return orthogonal_controls(group, draws, seed)
    assert rows is not None
    return shuffled_controls(group[0], rows, draws, seed)


def check_controls(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds of control, each once. Raises :class:`SteeringError` for an unknown one."""
    for kind in kinds:
        if kind not in CONTROLS:
            raise SteeringError(unknown_name("kind of control", kind, CONTROLS))
    return tuple(dict.fromkeys(kinds))


def check_steerings(model: Model, steerings: Mapping[str, Steering]) -> str:
    """The digest of the model's weights. Raises :class:`SteeringError` for a steering of other weights."""
    here = digest_weights(model)
    for name, one in steerings.items():
        if one.model_digest not in (None, here):
            raise SteeringError(
                f"{name!r} was made for weights {one.model_digest}; model {model.name!r} has {here}."
            )
    return here


def refuse_generated(steerings: Mapping[str, Steering]) -> None:
    """Raise :class:`SteeringError` for steps at generated tokens, of which given texts have none."""
    for name, one in steerings.items():
        if names_generated(one):
            raise SteeringError(
                f"{name!r} acts on generated tokens ({', '.join(map(str, one.steps))}), and these figures are read "
                "along given texts, which have none; evaluate steering.at(), the same at every token."
            )


def world_rows(
    model: Model, target: str, steerings: Mapping[str, Steering], seed: int
) -> Mapping[Site, ContrastRows]:
    """Activations of the generated world's prompts of both sides, wherever a steering acts."""
    sites = list(dict.fromkeys(place_of(s.site) for one in steerings.values() for s in one.steps))
    positive, negative = contrast_prompts(target, _WORLD_CONTRAST, seed)
    return read_contrast(model, positive, negative, sites, paired=False).rows
