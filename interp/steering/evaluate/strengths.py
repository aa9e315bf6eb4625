"""Strengths of equal dose: the same KL on the same text for every steering that is compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UnreachedDoseError
from interp.models.model import Model
from interp.steering.dose import find_strength, full_strength
from interp.steering.kl import KLMeter
from interp.steering.neutral import NeutralText
from interp.steering.steering import Steering

_ROUNDS = 6


def equal_strengths(
    model: Model,
    steering: Steering,
    doses: Sequence[float],
    text: NeutralText,
    *,
    tolerance: float = 0.02,
    batch_size: int = 16,
) -> Float[Tensor, " dose"]:
    """The strength of each dose (nats of KL on ``text``, above 0), to a share of ``tolerance``.

    What :func:`interp.steering.dose.find_strength` finds, for several doses in a few passes: the root of the
    KL is about even in the strength. NaN where no strength reaches a dose.
    """
    end = full_strength(steering) or float("inf")
    known, found = {0.0: 0.0}, dict.fromkeys(doses, float("nan"))
    guesses = {dose: min(1.0, end) for dose in doses}
    meter = KLMeter(model, steering, text, batch_size=batch_size)
    for _ in range(_ROUNDS):
        tried = sorted(set(guesses.values()) - set(known))
        if not tried:
            break
        kl = meter.measure(tried).mean
        known |= {strength: float(one) ** 0.5 for strength, one in zip(tried, kl, strict=True)}
        for dose, guess in list(guesses.items()):
            if abs(known[guess] ** 2 / dose - 1) <= tolerance:
                found[dose] = guess
                del guesses[dose]
            else:
                guesses[dose] = _next_guess(known, dose**0.5, end)
    for dose in guesses:
        found[dose] = _search(model, steering, dose, text, tolerance, batch_size)
    return torch.tensor([found[dose] for dose in doses], dtype=torch.float64)


def _next_guess(known: dict[float, float], wanted: float, end: float) -> float:
    """Between the strengths around the first that goes beyond, or further out."""
    points = sorted(known.items())
    for (low, at_low), (high, at_high) in itertools.pairwise(points):
        if at_high >= wanted:
            return low + (high - low) * (wanted - at_low) / (at_high - at_low)
    strength, root = points[-1]
    factor = 8.0 if root == 0 else min(8.0, 1.02 * wanted / root)
    return min(end, strength * max(factor, 1.02))


def _search(
    model: Model, steering: Steering, dose: float, text: NeutralText, tolerance: float, batch_size: int
) -> float:
    try:
        return find_strength(model, steering, dose, text, tolerance=tolerance, batch_size=batch_size)
    except UnreachedDoseError:
        return float("nan")
