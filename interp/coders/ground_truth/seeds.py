"""Figures of several seeds with intervals, random dictionaries beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from interp.errors import CoderError, unknown_name
from interp.results.agreement import Estimate
from interp.results.feature_recovery import RECOVERY_FIGURES, FeatureRecovery, RecoveryFigure, RecoveryTable
from interp.results.provenance import Provenance

IntervalKind = Literal["t", "bootstrap"]
RANDOM = "random"
_RESAMPLES = 10_000


def compare_seeds(
    found: Mapping[str, Sequence[FeatureRecovery]],
    random: Sequence[FeatureRecovery],
    *,
    figures: Sequence[str] = tuple(RECOVERY_FIGURES),
    interval: IntervalKind = "t",
    confidence: float = 0.95,
) -> RecoveryTable:
    """Tabulate recoveries of several architectures, a sequence of seeds each, beside random dictionaries.

    ``interval="t"`` takes seeds as normal draws (Student's t), ``"bootstrap"`` resamples them; with the
    usual five seeds the bootstrap is too narrow, so t is the default. One seed has no interval (NaN).

    Raises :class:`CoderError` for no architectures or seeds, an unknown figure or interval, and recoveries of
    different features.
    """
    if not found or not random or not all(found.values()):
        raise CoderError("give at least one recovery of each architecture, and of random dictionaries.")
    if RANDOM in found:
        raise CoderError(f"{RANDOM!r} names the random dictionaries; call the architecture otherwise.")
    unknown = [name for name in figures if name not in RECOVERY_FIGURES]
    if unknown:
        raise CoderError(unknown_name("figure", unknown[0], RECOVERY_FIGURES))
    groups = {**found, RANDOM: random}
    every = [one for group in groups.values() for one in group]
    made = {(one.n_features, one.provenance.task) for one in every}
    if len(made) > 1:
        raise CoderError(f"recoveries must be of the same kind of features; got {sorted(map(str, made))}.")
    rows = []
    for name, group in groups.items():
        measured = [one.figures() for one in group]
        for figure in figures:
            values = tuple(one[figure] for one in measured)
            estimate = estimate_mean(values, interval, confidence)
            rows.append(RecoveryFigure(name, figure, values, estimate))
    first = every[0].provenance
    n_seeds = "/".join(str(n) for n in dict.fromkeys(len(group) for group in groups.values()))
    provenance = Provenance(model=f"{n_seeds} seeds", task=first.task, n_prompts=first.n_prompts)
    return RecoveryTable(tuple(rows), RANDOM, interval, confidence, provenance)


def estimate_mean(values: Sequence[float], interval: IntervalKind, confidence: float) -> Estimate:
    """The mean of some values with its interval; NaN ends for a single value.

    Raises :class:`CoderError` for an unknown interval and a confidence outside (0, 1).
    """
    from scipy.stats import t as student

    if not 0 < confidence < 1:
        raise CoderError(f"confidence must lie between 0 and 1; got {confidence}.")
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if interval not in ("t", "bootstrap"):
        raise CoderError(unknown_name("interval", interval, ("t", "bootstrap")))
    if len(x) < 2:
        return Estimate(mean, float("nan"), float("nan"))
    tail = (1 - confidence) / 2
    if interval == "t":
        half = float(student.ppf(1 - tail, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
        return Estimate(mean, mean - half, mean + half)
    picked = np.random.default_rng(0).integers(0, len(x), (_RESAMPLES, len(x)))
    low, high = np.quantile(x[picked].mean(1), (tail, 1 - tail))
    return Estimate(mean, float(low), float(high))
