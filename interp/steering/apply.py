"""Applying: steerings become interventions, one batch row like another or each its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.intervene import intervene
from interp.models.interventions import Intervention, Place
from interp.models.model import Model
from interp.models.positions import Columns
from interp.steering.applied import Applied as Applied
from interp.steering.operations import Operation
from interp.steering.steering import Steering, Step, Strength
from interp.types import Site


@contextmanager
def apply_rows(
    model: Model,
    steerings: Steering | Sequence[Steering | None],
    dose: Strength | None = None,
    *,
    strength: Strength | None = None,
    labels: Mapping[str, Int[Tensor, " batch"]] | None = None,
    any_model: bool = False,
) -> Iterator[Applied]:
    """Steer the rows of a batch each in its own way: as many steerings as rows, ``None`` for a row left alone.

    One steering alone acts on all rows. ``dose`` and ``strength`` are as for :meth:`Steering.apply`. Batches in
    the block must have as many prompts as there are steerings. Raises :class:`SteeringError` as it does.
    """
    several = not isinstance(steerings, Steering)
    listed: list[Steering | None] = [steerings] if isinstance(steerings, Steering) else list(steerings)
    if not any(listed):
        raise SteeringError("no row has a steering; give at least one.")
    strengths = _strengths(listed, dose, strength, several)
    if not any_model:
        _check_model(model, listed)
    steps = _rows_of_steps(listed) if several else list(listed[0].steps if listed[0] else ())
    given = torch.as_tensor(dose if strength is None else strength, dtype=torch.float64).reshape(-1)
    applied = Applied(model, listed, given, "dose" if strength is None else "strength")
    names = dict(labels or {})
    patterns: dict[int, tuple[Step, list[int]]] = {}
    items = [_reader(site, applied, names) for site in _gate_sites(steps)]
    items += [_acting(step, strengths, applied, names, patterns) for step in steps]
    handle = model.module.register_forward_pre_hook(applied.before_forward, with_kwargs=True)
    try:
        with intervene(model, items, labels=names):
            yield applied
    finally:
        handle.remove()
    for step, (count,) in patterns.values():
        if not count:
            warnings.warn(f"{step} acted on no token: {step.where} chose none.", stacklevel=3)


def _strengths(
    listed: Sequence[Steering | None], dose: Strength | None, strength: Strength | None, several: bool
) -> Float[Tensor, " n"]:
    """[1] for all rows alike, or one for each row."""
    if (dose is None) == (strength is None):
        raise SteeringError(
            "give dose=... (nats of KL on neutral text) or strength=... (1 is the steering as it was extracted), "
            f"one of both; got dose={dose}, strength={strength}."
        )
    given = torch.as_tensor(strength if dose is None else dose, dtype=torch.float64).reshape(-1)
    if not bool(torch.isfinite(given).all()):
        raise SteeringError(f"doses and strengths are finite; got {given.tolist()[:20]}.")
    if several:
        if len(given) not in (1, len(listed)):
            raise SteeringError(
                f"got {len(given)} doses for {len(listed)} rows; give one, or one for each row."
            )
        given = given.expand(len(listed))
    if dose is None:
        return given
    owners = listed if several else [listed[0]] * len(given)
    return torch.tensor(
        [
            0.0 if one is None else float(one.strength_for(x))
            for one, x in zip(owners, given.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


def _check_model(model: Model, listed: Sequence[Steering | None]) -> None:
    digests = {one.model_digest for one in listed if one is not None and one.model_digest is not None}
    if not digests:
        return
    here = digest_weights(model)
    if digests - {here}:
        raise SteeringError(
            f"this steering was made for weights {', '.join(sorted(digests))}; model {model.name!r} has {here}. "
            "Directions and doses of one model say nothing about another; give any_model=True if you know better."
        )


def _rows_of_steps(listed: Sequence[Steering | None]) -> list[Step]:
    """Every steering's steps for its own rows; the same object in several rows acts on them at once."""
    owners: dict[int, list[int]] = {}
    for row, one in enumerate(listed):
        if one is not None:
            owners.setdefault(id(one), []).append(row)
    steps: list[Step] = []
    for rows in owners.values():
        one = listed[rows[0]]
        assert one is not None
        if any(step.site.rows is not None for step in one.steps):
            raise SteeringError("a steering for a row of its own must not name rows itself.")
        steps += [replace(step, site=step.site.for_rows(*rows)) for step in one.steps]
    return steps


def _gate_sites(steps: Sequence[Step]) -> list[Site]:
    gates = {id(step.gate): step.gate for step in steps if step.gate is not None}
    return list(dict.fromkeys(site for gate in gates.values() for site in gate.sites))


def _reader(site: Site, applied: Applied, labels: Mapping[str, Tensor]) -> Intervention:
    def read(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        if place.columns.start == 0:
            applied.read(site, _flat(part, site), place.columns, labels)
        return part, None

    # everywhere: under a cache later columns hold nothing to read, which is no mistake
    return Intervention(replace(site, positions=None), "read", read)


def _flat(part: Tensor, site: Site) -> Tensor:
    """Heads side by side in the last axis."""
    return part.flatten(2) if part.ndim == 4 else part


def _acting(
    step: Step,
    strengths: Tensor,
    applied: Applied,
    labels: Mapping[str, Tensor],
    patterns: dict[int, tuple[Step, list[int]]],
) -> Intervention:
    moved: dict[tuple[torch.device, torch.dtype], Operation] = {}
    count = [0]
    if step.where is not None:
        patterns[id(step)] = (step, count)

    def change(part: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
        columns, flat = place.columns, _flat(part, step.site)
        key = (part.device, part.dtype)
        if key not in moved:
            _check_width(step, flat)
            moved[key] = step.operation.to(part)
        rows = _rows_of(strengths, columns) * step.weight
        if step.gate is not None:
            rows = rows.to(part.device) * applied.decide(step)
        strength = rows[:, None].expand(-1, columns.n).to(part.device)
        chosen = columns.select(step.site, labels)
        if step.where is not None:
            chosen = chosen & step.where.select(applied.model, applied.tokens, columns)
            count[0] += int(chosen.sum())
            strength = strength * chosen.to(strength)
        applied.mark(columns, strength, chosen)
        wide = torch.promote_types(part.dtype, torch.float32)
        scaled = strength.to(wide)[..., None]
        new = moved[key].change(flat.to(wide), scaled).to(part.dtype)
        new = torch.where(scaled == 0, flat, new)
        return new.reshape(part.shape), None

    return Intervention(step.site, step.operation.kind, change)


def _rows_of(strengths: Tensor, columns: Columns) -> Tensor:
    n, prompt = len(strengths), columns.prompt
    if n == 1:
        return strengths.expand(columns.batch)
    if n != prompt.n_prompts:
        raise SteeringError(
            f"got doses or steerings for {n} rows, but the batch has {prompt.n_prompts} prompts; give as many."
        )
    return strengths.repeat_interleave(prompt.repeats)


def _check_width(step: Step, flat: Tensor) -> None:
    if step.operation.d != flat.shape[-1]:
        raise SteeringError(
            f"{step} is of {step.operation.d} entries; the activation there has {flat.shape[-1]}. Was it made for "
            "another model or site?"
        )
