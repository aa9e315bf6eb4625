"""Dose: the strength of a steering by what it costs, KL(unsteered || steered) on neutral text (``kl``).

A calibration is measured once and looked up; :func:`find_strength` searches for one dose, more exactly.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from interp.errors import SteeringError, UnreachedDoseError
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.kl import BATCH, KLMeter, steered_rows
from interp.steering.kl import KLByRow as KLByRow
from interp.steering.kl import as_continued as as_continued
from interp.steering.kl import kl_by_token as kl_by_token
from interp.steering.kl import measure_kl as measure_kl
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.steering import Steering

_LARGEST_STRENGTH = 2.0**14
_SEARCH_ROWS = 8
"""Rows of text that the largest strength of a calibration is found on."""
_MARGIN, _LOOSE = 1.25, 0.1
"""The search aims above the largest dose, as its rows are few, and to this share of it."""
_NOTICEABLE, _SETTLED = 1e-3, 1.02
"""Twice the strength that brings less than this times a KL that can be told from 0 has reached all there is."""
_GUESSES = 40


def calibrate_dose(
    model: Model,
    steering: Steering,
    neutral: Prompts | NeutralText | None = None,
    *,
    max_dose: float = 2.0,
    n_strengths: int = 8,
    both_signs: bool = True,
    n: int = 64,
    length: int = 64,
    batch_size: int = BATCH,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Steering:
    """The steering with its dose measured: KL on neutral text by strength, up to ``max_dose`` nats.

    ``neutral`` is data as for :func:`interp.capture_stream` (the first ``n`` rows, cut to ``length`` tokens);
    text of the generated world if left out. The largest strength is searched for on a few rows; ``n_strengths``
    from 0 to it are measured on either side, closest where the KL changes most. An operation that has an end
    (projecting out) is measured no further than there.

    Raises :class:`SteeringError` for bad numbers, for text the steering does not touch, and where no strength
    changes the model's output.
    """
    from tqdm.auto import tqdm

    if not max_dose > 0 or n_strengths < 1 or not 0 < confidence < 1:
        raise SteeringError(
            f"max_dose must be above 0, n_strengths at least 1 and confidence in (0, 1); got {max_dose}, "
            f"{n_strengths} and {confidence}."
        )
    begun = time.perf_counter()
    text = read_neutral(model, neutral, n=n, length=length, seed=seed)
    meter = KLMeter(model, steering, text, batch_size=batch_size)
    few = steered_rows(model, meter.steering, text, _SEARCH_ROWS)
    search = KLMeter(model, steering, few, batch_size=batch_size)
    largest = [_largest_strength(search, sign, max_dose) for sign in ([1.0, -1.0] if both_signs else [1.0])]
    ends = [end for end in largest if end]
    if not ends:
        raise SteeringError(
            f"no strength up to {_LARGEST_STRENGTH:g} changes the model's output: {steering!r}."
        )
    n_measured = 1 + n_strengths * len(ends)
    with tqdm(total=meter.n_batches * n_measured, disable=not progress, desc="dose") as bar:
        strengths, found = _measure_sides(meter, ends, n_strengths, bar.update)
    if not bool(torch.isfinite(found.mean).all()):
        raise SteeringError(f"the model's output is not finite under {steering!r}; it has no dose.")
    provenance = _provenance(model, steering, text, seed, begun)
    return replace(
        steering, calibration=_as_calibration(strengths, found, text, confidence, seed, provenance)
    )


def _provenance(model: Model, steering: Steering, text: NeutralText, seed: int, begun: float) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="neutral text",
        n_prompts=len(text.rows),
        seed=seed,
        metric="KL(unsteered || steered), nats a token",
        method=steering.method,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - begun,
    )


def _as_calibration(
    strengths: list[float],
    found: KLByRow,
    text: NeutralText,
    confidence: float,
    seed: int,
    provenance: Provenance,
) -> DoseCalibration:
    low, high = found.intervals(confidence, seed)
    return DoseCalibration(
        strengths=torch.tensor(strengths, dtype=torch.float64),
        kl=found.mean,
        low=low,
        high=high,
        confidence=confidence,
        text=text.describe(),
        n_tokens=int(found.count.sum()),
        provenance=provenance,
    )


def find_strength(
    model: Model,
    steering: Steering,
    dose: float,
    text: NeutralText,
    *,
    tolerance: float = 0.01,
    batch_size: int = BATCH,
) -> float:
    """A strength whose KL on ``text`` is ``dose`` nats, to a share of ``tolerance``, by bracketing.

    For comparisons at equal dose, more exact than looking a calibration up; it is the smallest one where the KL rises
    with the strength. A negative dose is a negative strength. Raises :class:`SteeringError` where no strength
    reaches it, for a dose that is not finite, and for a tolerance outside (0, 1).
    """
    if not math.isfinite(dose) or not 0 < tolerance < 1:
        raise SteeringError(
            f"a dose is a finite number of nats, its tolerance a share in (0, 1); got {dose} and {tolerance}."
        )
    if not dose:
        return 0.0
    sign, wanted = (-1.0 if dose < 0 else 1.0), abs(dose)
    root = _root_of_kl(KLMeter(model, steering, text, batch_size=batch_size), sign)
    bracket = _bracket(root, wanted**0.5, full_strength(steering))
    if bracket.at_high**2 < wanted * (1 - tolerance):
        raise UnreachedDoseError(
            f"no strength up to {bracket.high:g} reaches {wanted:g} nats: {bracket.at_high**2:.4g} there "
            f"({steering!r})."
        )
    found, at_found = _close_in(root, wanted**0.5, bracket, tolerance)
    if abs(at_found**2 / wanted - 1) > tolerance:
        raise UnreachedDoseError(
            f"the KL jumps past {wanted:g} nats at strength {sign * found:g}, from {bracket.at_low**2:.4g} to "
            f"{at_found**2:.4g} nats; ask for another dose or a larger tolerance ({steering!r})."
        )
    return sign * found


def _measure_sides(
    meter: KLMeter, ends: list[float], n: int, progress: Callable[[], object]
) -> tuple[list[float], KLByRow]:
    """Rising strengths, 0 and ``n`` up to each end, and their KL.

    Half of them lie evenly; the others halve the steps over which the root of the KL changes most, for doses are
    looked up along it.
    """
    even = (n + 1) // 2
    strengths = [0.0, *(end * (i + 1) / even for end in ends for i in range(even))]
    found = meter.measure(strengths, progress)
    for end in ends:
        for _ in range(n - even):
            side = sorted(
                (abs(s), float(kl) ** 0.5)
                for s, kl in zip(strengths, found.mean, strict=True)
                if s * end >= 0
            )
            steps = [(abs(b[1] - a[1]), (a[0] + b[0]) / 2) for a, b in itertools.pairwise(side)]
            strengths.append(math.copysign(max(steps)[1], end))
            more = meter.measure(strengths[-1:], progress)
            found = KLByRow(torch.cat([found.total, more.total]), found.count)
    order = sorted(range(len(strengths)), key=lambda i: strengths[i])
    return [strengths[i] for i in order], KLByRow(found.total[order], found.count)


def full_strength(steering: Steering) -> float | None:
    """The strength at which some step has reached its end; ``None`` where there is always more."""
    found = [
        step.operation.full_strength / abs(step.weight)
        for step in steering.steps
        if step.operation.full_strength is not None and step.weight
    ]
    return min(found) if found else None


def _largest_strength(meter: KLMeter, sign: float, max_dose: float) -> float:
    """A strength of this sign with a KL of a little more than ``max_dose``, or the largest there is; 0 for none."""
    root = _root_of_kl(meter, sign)
    wanted = (_MARGIN * max_dose) ** 0.5
    bracket = _bracket(root, wanted, full_strength(meter.steering))
    if bracket.at_high == 0:
        return 0.0
    if bracket.at_high <= wanted:
        return sign * bracket.high
    return sign * _close_in(root, wanted, bracket, _LOOSE)[0]


def _root_of_kl(meter: KLMeter, sign: float) -> Callable[[float], float]:
    """The root of the KL by strength, which is about straight from 0; infinite where the model overflows."""

    def root(strength: float) -> float:
        found = float(meter.measure([sign * strength]).mean) ** 0.5
        return math.inf if math.isnan(found) else found

    return root


@dataclass
class _Bracket:
    """Two strengths and the roots of their KL, the wanted one in between unless none reaches it."""

    low: float
    at_low: float
    high: float
    at_high: float


def _bracket(root: Callable[[float], float], wanted: float, end: float | None) -> _Bracket:
    """By doubling, up to ``end``; where there is none, up to where more strength brings no more."""
    limit = _LARGEST_STRENGTH if end is None else end
    high = min(1.0, limit)
    found = _Bracket(0.0, 0.0, high, root(high))
    while found.at_high < wanted and found.high < limit:
        high = min(2 * found.high, limit)
        at_high = root(high)
        if end is None and _NOTICEABLE < at_high**2 < _SETTLED * found.at_high**2:
            break
        found = _Bracket(found.high, found.at_high, high, at_high)
    return found


def _close_in(
    root: Callable[[float], float], wanted: float, bracket: _Bracket, tolerance: float
) -> tuple[float, float]:
    """The strength in a bracket whose KL is the wanted one to a share of ``tolerance``, and the root of its KL.

    Where none is, as at a jump, the upper end of what is left. The bracket is drawn in.
    """
    if abs(bracket.at_high**2 / wanted**2 - 1) <= tolerance:
        return bracket.high, bracket.at_high
    kept = 0
    for _ in range(_GUESSES):
        width = bracket.high - bracket.low
        share = (wanted - bracket.at_low) / (bracket.at_high - bracket.at_low)
        # halved where one end has stayed for long, or is infinite: a straight line says little there
        share = 0.5 if abs(kept) > 2 or not math.isfinite(bracket.at_high) else min(max(share, 0.05), 0.95)
        guess = bracket.low + width * share
        found = root(guess)
        if abs(found**2 / wanted**2 - 1) <= tolerance:
            return guess, found
        if found < wanted:
            bracket.low, bracket.at_low = guess, found
            kept = max(kept, 0) + 1
        else:
            bracket.high, bracket.at_high = guess, found
            kept = min(kept, 0) - 1
    return bracket.high, bracket.at_high
