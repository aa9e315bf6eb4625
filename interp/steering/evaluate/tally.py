"""Figures as ratios of sums over prompts, and their bootstrap intervals over prompts and over draws of controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError

_RESAMPLES = 1000
Ends = tuple[float, float, float]
"""Value, low, high."""


@dataclass(frozen=True, eq=False)
class Tally:
    """A figure of one or several steerings: ``part`` over ``whole``, each summed over units.

    Units are prompts or rows of text. A unit with nothing to count has 0 in both.
    """

    part: Float[Tensor, "draw unit"]
    whole: Float[Tensor, "draw unit"]

    @classmethod
    def of(cls, part: Float[Tensor, " unit"], whole: Float[Tensor, " unit"]) -> Tally:
        """Of one steering."""
        return cls(part.double().cpu()[None], whole.double().cpu()[None])

    @classmethod
    def joined(cls, several: Sequence[Tally]) -> Tally:
        """Of several draws, on the same units."""
        return cls(torch.cat([one.part for one in several]), torch.cat([one.whole for one in several]))

    @property
    def value(self) -> float:
        """Mean over draws of the ratio of sums; NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = self.part.sum(1).numpy() / self.whole.sum(1).numpy()
        return float(np.nanmean(ratios)) if np.isfinite(ratios).any() else float("nan")


class Bootstrap:
    """Resamples units, the same for every tally, so that differences are of pairs; and draws of controls.

    Raises :class:`SteeringError` for a confidence outside (0, 1).
    """

    def __init__(self, confidence: float = 0.95, seed: int = 0) -> None:
        if not 0 < confidence < 1:
            raise SteeringError(f"confidence must lie between 0 and 1; got {confidence}.")
        self.confidence = confidence
        self._seed = seed
        self._counts: dict[tuple[str, int], np.ndarray] = {}

    def level(self, tally: Tally) -> Ends:
        """A figure with its interval."""
        return self._ends(tally.value, self._resampled(tally))

    def difference(self, tally: Tally, from_: Tally) -> Ends:
        """How much larger the first figure is than the second on the same units."""
        if tally.part.shape[1] != from_.part.shape[1]:
            raise SteeringError("a difference is of figures on the same units.")
        return self._ends(tally.value - from_.value, self._resampled(tally) - self._resampled(from_))

    def _resampled(self, tally: Tally) -> np.ndarray:
        n_draws, n_units = tally.part.shape
        units = self._drawn("units", n_units)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (units @ tally.part.numpy().T) / (units @ tally.whole.numpy().T)
        if n_draws == 1:
            return np.asarray(ratios[:, 0])
        # of as many draws as units the same resamples would be drawn: taken backwards they are others
        counts = self._drawn("draws", n_draws)[:: -1 if n_draws == n_units else 1]
        weights = counts * np.isfinite(ratios)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights * np.nan_to_num(ratios)).sum(1) / weights.sum(1))

    def _drawn(self, kind: str, n: int) -> np.ndarray:
        """How often each of n is drawn, [resample, n]."""
        if (kind, n) not in self._counts:
            rng = np.random.default_rng([self._seed, n, len(kind)])
            self._counts[kind, n] = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)
        return self._counts[kind, n]

    def _ends(self, value: float, resamples: np.ndarray) -> Ends:
        finite = resamples[np.isfinite(resamples)]
        if not len(finite) or not np.isfinite(value):
            return value, float("nan"), float("nan")
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(finite, (tail, 1 - tail))
        return value, float(low), float(high)
