"""Evaluating steerings at equal dose: what they bring, what they cost, and what any push would have done."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_evaluation import CONCEPT_MEASURES, MEASURES, METHOD, SteeringEvaluation
from interp.steering.contrast import Contrast
from interp.steering.evaluate.continuation import WrittenWords
from interp.steering.evaluate.forced import ConceptWords
from interp.steering.evaluate.held_out_probe import HeldOutProbe
from interp.steering.evaluate.instrument import Instrument
from interp.steering.evaluate.places import (
    Condition,
    check_controls,
    check_steerings,
    list_conditions,
    refuse_generated,
    world_rows,
)
from interp.steering.evaluate.side_effects import NeutralSideEffects
from interp.steering.evaluate.strengths import equal_strengths
from interp.steering.evaluate.tally import Bootstrap, Ends, Tally
from interp.steering.kl import names_generated
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.steering import Steering
from interp.steering.world import attributed_texts, contrast_prompts, parse_target
from interp.types import SiteLike

DOSES = (0.1, 0.3, 1.0)
HELD_OUT = 1_000_000
"""Added to a seed for the prompts that judge: other ones than those that were extracted from."""
_NAN: Ends = (float("nan"), float("nan"), float("nan"))


def evaluate_steering(
    model: Model,
    steerings: Mapping[str, Steering],
    target: str | None = None,
    *,
    positive: Sequence[str] | Sequence[Tensor] | None = None,
    negative: Sequence[str] | Sequence[Tensor] | None = None,
    doses: Sequence[float] = DOSES,
    neutral: Prompts | NeutralText | None = None,
    controls: Sequence[str] = ("random", "orthogonal", "shuffled"),
    contrast: Contrast | None = None,
    draws: int = 4,
    n: int = 64,
    new_tokens: int = 24,
    probe_site: SiteLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> SteeringEvaluation:
    """Measure steerings by name at doses of equal KL on neutral text, beside controls, without a judge model.

    For the generated world name a ``target`` (``"sentiment=positive"``): the concept is then told by the
    generator's own words and grammar, on ``n`` texts that lack it, and half as many sampled continuations of
    ``new_tokens``. For any other model give held-out ``positive`` and ``negative`` prompts: a probe fitted on
    half of them at ``probe_site`` reads the rest. Loss, KL and entropy are of ``neutral`` text (needed where the
    model does not read the generated world). Every measure is in :data:`interp.results.MEASURES`.

    ``controls`` (:data:`CONTROLS`) act at the same places at the same KL, ``draws`` of each kind; shuffled labels
    need a ``contrast``, which is read here for a target. What cannot be made for a steering is noted in
    the provenance. Intervals are bootstrap, over prompts and over draws of controls. A steering that names generated
    tokens is judged by what is written: figures along given texts, which have none, are NaN, or left out where all
    are such.

    Raises :class:`SteeringError` without steerings or anything to judge by, for doses not above 0 or given twice,
    a steering or a contrast of other weights, steps on generated tokens without a target, and sides that are too
    small.
    """
    _check(model, steerings, doses, contrast, draws, n)
    kinds, begun = check_controls(controls), time.perf_counter()
    bootstrap = Bootstrap(confidence, seed)
    text = read_neutral(model, neutral, n=max(8, n // 2), seed=seed)
    instruments = _instruments(
        model, target, positive, negative, n, new_tokens, probe_site, text, seed, batch_size
    )
    rows = contrast.rows if contrast is not None else None
    if rows is None and target is not None and "shuffled" in kinds:
        rows = world_rows(model, target, steerings, seed)
    instruments, left_out = _without_texts(steerings, instruments)
    conditions, missing = list_conditions(steerings, kinds, rows, draws, seed)
    found = _measure(model, conditions, doses, instruments, text, batch_size, progress)
    probes = [one for one in instruments if isinstance(one, HeldOutProbe)]
    notes = [f"held-out probe at {one.site}: AUC {one.auc:.3f}" for one in probes] + missing + left_out
    provenance = replace(
        _provenance(model, target, seed, tuple(notes)),
        n_prompts=n if target else len(probes[0].prompts),
        metric=f"at equal KL, {draws} draws of each control" if kinds else "at equal KL, no controls",
        seconds=time.perf_counter() - begun,
    )
    return _record(found, conditions, doses, target or "positive prompts", bootstrap, text, provenance)


def _provenance(model: Model, target: str | None, seed: int, notes: tuple[str, ...]) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task=f"steering to {target}" if target else "steering to held-out positive prompts",
        seed=seed,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        notes=notes,
    )


def _check(
    model: Model,
    steerings: Mapping[str, Steering],
    doses: Sequence[float],
    contrast: Contrast | None,
    draws: int,
    n: int,
) -> None:
    if not steerings:
        raise SteeringError("there is no steering to evaluate; give at least one by name.")
    if not doses or not all(0 < dose < math.inf for dose in doses) or len(set(doses)) < len(doses):
        raise SteeringError(f"doses are nats above 0, each once; got {list(doses)}.")
    if draws < 1 or n < 4:
        raise SteeringError(f"draws is at least 1 and n at least 4; got {draws} and {n}.")
    here = check_steerings(model, steerings)
    if contrast is not None and contrast.model_digest != here:
        raise SteeringError(
            f"the contrast was read from weights {contrast.model_digest}; model {model.name!r} has {here}."
        )


def _instruments(
    model: Model,
    target: str | None,
    positive: Sequence[str] | Sequence[Tensor] | None,
    negative: Sequence[str] | Sequence[Tensor] | None,
    n: int,
    new_tokens: int,
    probe_site: SiteLike | None,
    text: NeutralText,
    seed: int,
    batch_size: int,
) -> list[Instrument]:
    if (positive is None) != (negative is None):
        raise SteeringError("held-out prompts come in two sides; give positive and negative ones.")
    found: list[Instrument] = []
    judged = HELD_OUT + seed
    if target is not None:
        parse_target(target)
        texts = attributed_texts(n, judged, without=target)
        prompts = attributed_texts(max(4, n // 2), judged + 1, without=target, sentences=1)
        found.append(ConceptWords(model, target, texts, 2 * batch_size))
        found.append(WrittenWords(model, target, prompts, new_tokens, seed))
        if positive is None:
            positive, negative = contrast_prompts(target, max(8, n), judged + 2)
    if positive is None or negative is None:
        raise SteeringError(
            "nothing says what the concept is: give target='attribute=value' of the generated world, or held-out "
            "positive and negative prompts."
        )
    found.append(HeldOutProbe(model, positive, negative, probe_site, 2 * batch_size))
    found.append(NeutralSideEffects(text, batch_size))
    return found


def _without_texts(
    steerings: Mapping[str, Steering], instruments: list[Instrument]
) -> tuple[list[Instrument], list[str]]:
    """The instruments that can read some of the steerings, and a note on those that cannot read all."""
    late = {name: one for name, one in steerings.items() if names_generated(one)}
    if not late:
        return instruments, []
    blind = [measure for one in instruments if one.along_texts for measure in one.measures]
    kept = [one for one in instruments if not one.along_texts]
    if not any(measure in CONCEPT_MEASURES for one in kept for measure in one.measures):
        refuse_generated(late)
    note = f"{', '.join(late)}: acts on generated tokens, so that {', '.join(blind)} say nothing of it"
    return kept if len(late) == len(steerings) else instruments, [note]


Figures = Mapping[str, Tally]


def _measure(
    model: Model,
    conditions: Sequence[Condition],
    doses: Sequence[float],
    instruments: Sequence[Instrument],
    text: NeutralText,
    batch_size: int,
    progress: bool,
) -> tuple[Figures, list[list[Figures | None]], Tensor]:
    """Unsteered figures, those of each condition and dose (``None`` where a draw does not reach it), strengths."""
    from tqdm.auto import tqdm

    def read(steering: Steering | None, strength: float) -> dict[str, Tally]:
        figures: dict[str, Tally] = {}
        for one in instruments:
            if steering is None or not (one.along_texts and names_generated(steering)):
                figures |= one.read(model, steering, strength)
        return figures

    unsteered = read(None, 0.0)
    every: list[list[Figures | None]] = []
    strengths = torch.full((len(conditions), len(doses)), torch.nan, dtype=torch.float64)
    total = sum(len(one.steerings) for one in conditions)
    with tqdm(total=total * len(doses), disable=not progress, desc="steerings at doses") as bar:
        for row, condition in enumerate(conditions):
            found = [
                equal_strengths(model, one, doses, text, batch_size=batch_size) for one in condition.steerings
            ]
            strengths[row] = torch.stack(found).mean(0)
            at_doses: list[Figures | None] = []
            for column in range(len(doses)):
                several = []
                for steering, own in zip(condition.steerings, found, strict=True):
                    if not bool(strengths[row, column].isnan()):
                        several.append(read(steering, float(own[column])))
                    bar.update()
                at_doses.append(_join(several) if several else None)
            every.append(at_doses)
    return unsteered, every, strengths


def _join(several: Sequence[Figures]) -> Figures:
    return {name: Tally.joined([one[name] for one in several]) for name in several[0]}


def _row(ends: Ends) -> Float[Tensor, " end"]:
    return torch.tensor(ends, dtype=torch.float64)


def _record(
    found: tuple[Figures, list[list[Figures | None]], Tensor],
    conditions: Sequence[Condition],
    doses: Sequence[float],
    target: str,
    bootstrap: Bootstrap,
    text: NeutralText,
    provenance: Provenance,
) -> SteeringEvaluation:
    unsteered, every, strengths = found
    measures = tuple(name for name in MEASURES if name in unsteered)
    shape = (len(conditions), len(doses), len(measures), 3)
    values, shifts, over = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(3))
    for row, condition in enumerate(conditions):
        for column in range(len(doses)):
            figures = every[row][column]
            if figures is None:
                continue
            beside = [
                other
                for one, at_doses in zip(conditions, every, strict=True)
                if one.kind != METHOD and one.place == condition.place
                if (other := at_doses[column]) is not None
            ]
            controls = _join(beside) if beside and condition.kind == METHOD else None
            for number, name in enumerate(measures):
                if name not in figures:
                    continue
                cell = row, column, number
                values[cell] = _row(bootstrap.level(figures[name]))
                shifts[cell] = _row(bootstrap.difference(figures[name], unsteered[name]))
                ends = _NAN if controls is None else bootstrap.difference(figures[name], controls[name])
                over[cell] = _row(ends)
    base = torch.tensor([bootstrap.level(unsteered[name]) for name in measures], dtype=torch.float64)
    return SteeringEvaluation(
        target=target,
        conditions=tuple(one.name for one in conditions),
        kinds=tuple(one.kind for one in conditions),
        places=tuple(one.place for one in conditions),
        draws=tuple(len(one.steerings) for one in conditions),
        doses=tuple(map(float, doses)),
        measures=measures,
        unsteered=base,
        values=values,
        shifts=shifts,
        over_controls=over,
        strengths=strengths,
        confidence=bootstrap.confidence,
        text=text.describe(),
        provenance=provenance,
    )
