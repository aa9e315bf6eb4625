"""Applying: steerings become interventions, one batch row like another or each its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.hooks import ForwardTracker
from interp.models.intervene import intervene
from interp.models.interventions import Intervention, Place
from interp.models.model import Model
from interp.models.positions import Columns
from interp.results.provenance import Provenance
from interp.results.steered_text import SteeredText
from interp.steering.gates import Gate, Reading
from interp.steering.operations import Operation
from interp.steering.steering import Steering, Step, Strength
from interp.types import Site


class Applied:
    """A steering while it acts: where it has acted so far."""

    def __init__(
        self, model: Model, steerings: Sequence[Steering | None], asked: Float[Tensor, " n"], unit: str
    ) -> None:
        self.model = model
        self._steerings, self._asked, self._unit = list(steerings), asked, unit
        self._tracker = ForwardTracker(model)
        self._tokens: Tensor | None = None
        self._readings: dict[Site, Reading] = {}
        self._decisions: dict[int, Tensor] = {}
        self._acted: Tensor | None = None
        self._touched: Tensor | None = None

    @property
    def touched(self) -> Bool[Tensor, "batch total"]:
        """Which tokens a step lies on, whatever its strength and gate. Raises as :attr:`acted`."""
        if self._touched is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._touched

    @property
    def acted(self) -> Float[Tensor, "batch total"]:
        """Strength at every column of the prompts run last and their continuation: the largest over steps.

        0 where nothing acted, signed, gates and weights included. Raises :class:`SteeringError` before a
        forward has run.
        """
        if self._acted is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._acted

    @property
    def tokens(self) -> Int[Tensor, "batch total"]:
        """The tokens that were read last, those of the KV cache too. Raises as :attr:`acted`."""
        if self._tokens is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._tokens

    def gate_of(self, gate: Gate) -> Float[Tensor, "batch channel"]:
        """What a gate decided for the prompts run last. Raises :class:`SteeringError` if it did not."""
        if id(gate) not in self._decisions:
            raise SteeringError("this gate has decided nothing: no step of it has acted yet.")
        return self._decisions[id(gate)]

    def text(self, tokens: Int[Tensor, "batch total"] | None = None) -> SteeredText:
        """The prompts run last and what followed, with the strength at every token, to be shown as coloured text.

        Give what :meth:`Model.generate` returned to see its last token too, which the model writes and does not
        read. Beams cannot be shown: their rows change places.

        Raises :class:`SteeringError` as :attr:`acted`, and for tokens that are not those that were read.
        """
        acted, read = self.acted, self.tokens
        tokens = read if tokens is None else tokens.cpu()
        n = read.shape[1]
        if len(tokens) != len(read) or tokens.shape[1] < n or not torch.equal(tokens[:, :n], read):
            raise SteeringError(
                f"the tokens [{', '.join(map(str, tokens.shape))}] do not begin with those that were read last, "
                f"[{', '.join(map(str, read.shape))}]; give what model.generate returned in this block."
            )
        prompt = self._tracker.columns.prompt
        real = Columns(prompt, 0, tokens.shape[1]).real
        own = real.sum(1)
        strength = torch.full(real.shape, torch.nan)
        for row, shown in enumerate(real):
            # padding on the right of a prompt stands before what was generated
            seen = acted[row][shown[:n]]
            strength[row, : len(seen)] = seen
        rows = self._steerings if len(self._steerings) > 1 else self._steerings * prompt.n_prompts
        asked = self._asked if len(self._asked) > 1 else self._asked.expand(prompt.n_prompts)
        listed = [one for one in rows for _ in range(prompt.repeats)]
        methods = dict.fromkeys(one.method for one in rows if one is not None)
        return SteeredText(
            tokens=tuple(
                tuple(self.model.to_str_tokens(row[shown])) for row, shown in zip(tokens, real, strict=True)
            ),
            strength=strength[:, : int(own.max())],
            n_prompt=prompt.lengths.clone(),
            asked=torch.where(
                torch.tensor([one is not None for one in listed]),
                asked.repeat_interleave(prompt.repeats).double(),
                0.0,
            ),
            unit=self._unit,
            steering=tuple("" if one is None else ", ".join(map(str, one.steps)) for one in listed),
            provenance=Provenance(
                model=self.model.name,
                family=self.model.traits.family,
                revision=self.model.revision,
                task="steered text",
                n_prompts=prompt.n_prompts,
                method=", ".join(methods),
                device=str(self.model.device),
                dtype=str(self.model.dtype).removeprefix("torch."),
            ),
        )

    def before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook for the model's module: follows tokens, and forgets the last prompts."""
        self._tracker.before_forward(module, args, kwargs)
        tokens, columns = self._tracker.tokens, self._tracker.columns
        assert tokens is not None
        tokens = tokens.detach().cpu()
        if columns.start and self._tokens is not None and len(self._tokens) == len(tokens):
            self._tokens = torch.cat([self._tokens[:, : columns.start], tokens], dim=1)
            self._acted = _extended(self.acted, columns)
            self._touched = _extended(self.touched, columns)
            return
        if columns.start:
            raise SteeringError(
                "the first forward inside the block continues a KV cache from outside; steering must see the prompt."
            )
        self._tokens = tokens
        self._readings.clear()
        self._decisions.clear()
        self._acted = torch.zeros(columns.batch, columns.n)
        self._touched = torch.zeros(columns.batch, columns.n, dtype=torch.bool)

    def read(self, site: Site, values: Tensor, columns: Columns, labels: Mapping[str, Tensor]) -> None:
        """Keep what a gate reads: the prompt's tokens only."""
        in_prompt = columns.whole < columns.prompt.n_columns
        chosen = columns.select(site, labels) & in_prompt
        self._readings[site] = Reading(values, chosen.to(values.device))

    def decide(self, step: Step) -> Float[Tensor, " batch"]:
        """The step's factor for every row of this forward."""
        gate = step.gate
        assert gate is not None
        if id(gate) not in self._decisions:
            late = [str(site) for site in gate.sites if site not in self._readings]
            if late:
                raise SteeringError(
                    f"the gate of {step} reads {', '.join(late)}, which comes later in the forward than {step.site}; "
                    "read lower layers."
                )
            factors = gate.decide({site: self._readings[site] for site in gate.sites})
            self._decisions[id(gate)] = factors
        return self._decisions[id(gate)][:, step.channel]

    def mark(
        self, columns: Columns, strengths: Float[Tensor, "batch n"], chosen: Bool[Tensor, "batch n"]
    ) -> None:
        """Remember how strongly a step acted at the columns of this forward."""
        part = slice(columns.start, columns.start + columns.n)
        self.touched[:, part] |= chosen
        here, new = self.acted[:, part], torch.where(chosen, strengths.detach().float().cpu(), 0)
        here.copy_(torch.where(new.abs() > here.abs(), new, here))


def _extended(marks: Tensor, columns: Columns) -> Tensor:
    """The marks of earlier columns, and empty ones for those of this forward."""
    return torch.cat([marks[:, : columns.start], marks.new_zeros(len(marks), columns.n)], dim=1)


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
