"""From what a search found to a steering: one candidate, or every layer with a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.steering_search import SearchedCandidate, SteeringSearch
from interp.steering.dose import calibrate_dose
from interp.steering.neutral import NeutralText
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import parse_site


def steering_from(
    model: Model,
    found: SteeringSearch,
    rank: int = 1,
    dose: float | None = None,
    *,
    neutral: Prompts | NeutralText | None = None,
    calibrate: bool = True,
    max_dose: float | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Steering:
    """The candidate of a rank (from 1, at ``dose``) as a steering, its dose calibrated on ``neutral`` text.

    Up to ``max_dose`` nats; by default twice the largest dose that was searched, so that doses near those are exact.

    Raises :class:`RecordError` where no candidate has that rank.
    """
    chosen = found.at_rank(rank, dose)
    steering = Steering(
        (_step(found, chosen),),
        f"{found.extraction}, found by {found.method}",
        model_digest=found.model_digest,
        data=found.data,
        figures={"rank": float(rank), "score": chosen.score},
        provenance=found.provenance,
    )
    if not calibrate:
        return steering
    most = 2 * max(found.doses) if max_dose is None else max_dose
    return calibrate_dose(model, steering, neutral, max_dose=most, batch_size=batch_size, progress=progress)


def weighted_steering(
    model: Model,
    found: SteeringSearch,
    dose: float | None = None,
    *,
    neutral: Prompts | NeutralText | None = None,
    calibrate: bool = True,
    max_dose: float | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Steering:
    """All sites at once, each with its best position and a weight: its score over the best one's.

    Where the search knows strengths, strength 1 of every step is the one with the search's dose, else the
    direction as it was extracted. Candidates that were ruled out and scores of 0 and below have no step.
    Raises :class:`SteeringError` where none is left.
    """
    best: dict[str, SearchedCandidate] = {}
    for one in found.ranked(dose):
        if one.score > 0:
            best.setdefault(one.site, one)
    if not best:
        raise SteeringError(f"no candidate has a score above 0, so none has a weight: {found!r}.")
    highest = max(one.score for one in best.values())
    known = all(one.strength == one.strength for one in best.values())
    steps = []
    for site in (name for name in found.sites if name in best):
        one = best[site]
        weight = one.score / highest * (one.strength if known else 1.0)
        step = _step(found, one)
        steps.append(Step(step.site, step.operation, weight))
    steering = Steering(
        tuple(steps),
        f"{found.extraction}, weighted by {found.method}",
        model_digest=found.model_digest,
        data=found.data,
        provenance=found.provenance,
    )
    if not calibrate:
        return steering
    most = 2 * max(found.doses) if max_dose is None else max_dose
    return calibrate_dose(model, steering, neutral, max_dose=most, batch_size=batch_size, progress=progress)


def _step(found: SteeringSearch, chosen: SearchedCandidate) -> Step:
    direction = found.direction_of(chosen)
    if not bool(torch.isfinite(direction).all()):
        raise SteeringError(f"the direction of {chosen.site} holds NaN or infinity.")
    return Step(parse_site(chosen.acts_at), Add(direction))


def make_steering(model: Model, neutral: Callable[[], NeutralText]) -> Callable[..., Any]:
    """For :meth:`SteeringSearch.steering`, which stands below this floor."""

    def make(found: SteeringSearch, rank: int, dose: float | None, **options: Any) -> Steering:
        text = options.pop("neutral", None)
        return steering_from(model, found, rank, dose, neutral=neutral() if text is None else text, **options)

    return make
