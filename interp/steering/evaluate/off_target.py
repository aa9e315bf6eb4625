"""The off-target matrix: what steering for one value does to every value of every attribute."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.off_target import OffTarget
from interp.results.provenance import Provenance
from interp.steering.evaluate.controls import random_controls
from interp.steering.evaluate.evaluate import HELD_OUT
from interp.steering.evaluate.forced import ExpectedWords
from interp.steering.evaluate.places import check_steerings, describe_place, refuse_generated
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.evaluate.tally import Bootstrap, Tally
from interp.steering.neutral import NeutralText, read_neutral, reads_world
from interp.steering.steering import Steering
from interp.steering.world import attributed_texts


def measure_off_target(
    model: Model,
    steerings: Mapping[str, Steering],
    dose: float = 0.3,
    *,
    neutral: Prompts | NeutralText | None = None,
    draws: int = 4,
    n: int = 96,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> OffTarget:
    """Shifts of every value's share under every steering, at the same KL, over ``n`` texts of all values.

    Name the steerings after what they steer to (``"sentiment=positive"``), so that the record knows what is on
    target. ``draws`` random directions at each place stand below them, as their mean. Intervals are bootstrap
    over texts and draws. For models of the generated world.

    Raises :class:`SteeringError` without steerings, for a dose not above 0, a steering of other weights, steps on
    generated tokens only, and for a model that does not read the generated world.
    """
    from tqdm.auto import tqdm

    if not steerings or not 0 < dose < math.inf or draws < 1:
        raise SteeringError(
            f"give at least one steering, a dose above 0 and one draw or more; got {len(steerings)}, {dose}, {draws}."
        )
    check_steerings(model, steerings)
    refuse_generated(steerings)
    if not reads_world(model):
        raise SteeringError(
            f"the off-target matrix counts the generated world's words, which model {model.name!r} does not read; load "
            "a bundled model such as 'mix-4l'."
        )
    begun = time.perf_counter()
    text = read_neutral(model, neutral, n=32, seed=seed)
    words = ExpectedWords(model, attributed_texts(n, HELD_OUT + seed), 2 * batch_size)
    base = words.shares_of_all(words.read(model))
    controls = _controls(steerings, draws, seed)
    rows: dict[str, Sequence[Steering]] = {name: [one] for name, one in steerings.items()} | controls
    bootstrap = Bootstrap(confidence, seed)
    shifts = torch.full((len(rows), len(words.values), 3), torch.nan, dtype=torch.float64)
    for row, several in enumerate(tqdm(rows.values(), disable=not progress, desc="off target")):
        found = []
        for steering in several:
            (strength,) = equal_strengths(model, steering, [dose], text, batch_size=batch_size).tolist()
            if strength == strength:
                found.append(words.shares_of_all(words.read(model, steering, strength)))
        if len(found) == len(several):
            for column in range(len(words.values)):
                tally = Tally.joined([one[column] for one in found])
                shifts[row, column] = torch.tensor(
                    bootstrap.difference(tally, base[column]), dtype=torch.float64
                )
    return OffTarget(
        steerings=tuple(rows),
        values=tuple(f"{attribute}={value}" for attribute, value in words.values),
        shifts=shifts,
        unsteered=torch.tensor([one.value for one in base], dtype=torch.float64),
        controls=tuple(controls),
        dose=dose,
        confidence=confidence,
        provenance=_provenance(model, dose, n, seed, time.perf_counter() - begun),
    )


def _provenance(model: Model, dose: float, n: int, seed: int, seconds: float) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="off-target effects",
        n_prompts=n,
        seed=seed,
        metric=f"shift of the share in the attribute's words at {dose:g} nats",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
    )


def _controls(steerings: Mapping[str, Steering], draws: int, seed: int) -> dict[str, Sequence[Steering]]:
    places = {describe_place(one): one for one in reversed(list(steerings.values()))}
    several = len(places) > 1
    return {
        f"random direction{f': {place}' if several else ''}": random_controls(one, draws, seed)
        for place, one in places.items()
    }
