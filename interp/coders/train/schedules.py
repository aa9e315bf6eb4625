"""What changes over training: learning rate, k, and the sparsity penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

from interp.coders.config import CoderConfig
from interp.coders.train.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Values of a step, for a training of ``steps`` steps; ``None`` where their number is not known ahead.

    Then nothing decays, and warm-ups take their share of ``assumed`` steps.
    """

    training: TrainingConfig
    coder: CoderConfig
    steps: int | None
    assumed: int = 10_000

    def _share(self, step: int) -> float:
        return step / max(1, self.steps if self.steps is not None else self.assumed)

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, the first of which is 0."""
        full = self.training.rate_for(self.coder.d_sae)
        rise = _rise(self._share(step + 1), self.training.warmup)
        if self.steps is None or self.training.optimizer == "schedule-free" or not self.training.decay:
            return full * rise
        return full * min(rise, max(0.0, 1 - self._share(step)) / self.training.decay, 1.0)

    def k(self, step: int) -> int | None:
        """k of a step."""
        end, start = self.coder.k, self.training.k_start
        if end is None or start is None:
            return end
        done = _rise(self._share(step), self.training.k_warmup)
        return max(1, min(self.coder.d_sae, round(start + (end - start) * done)))

    def sparsity_share(self, step: int) -> float:
        """Share of the penalty's coefficient."""
        return _rise(self._share(step), self.training.sparsity_warmup)

    def resamples(self, step: int) -> bool:
        """Whether dead latents are resampled after this step; not in the last fifth, where that is known."""
        training = self.training
        if training.revival != "resample" or not training.resample_every:
            return False
        every = max(1, round(training.resample_every * (self.steps or self.assumed)))
        return (step + 1) % every == 0 and (self.steps is None or step + 1 <= 0.8 * self.steps)


def _rise(share: float, warmup: float) -> float:
    return 1.0 if warmup == 0 else min(1.0, share / warmup)


def steer_sparsity(coefficient: float, l0: float, target: float) -> float:
    """The penalty's coefficient, moved a little towards the wanted number of latents a row.

    It is multiplied by ``(l0 / target) ** 0.02``, at most 2 % a step, and kept within 1e-6 and 1e6.
    """
    change = (max(l0, 1e-3) / target) ** 0.02
    return min(1e6, max(1e-6, coefficient * math.exp(max(-0.02, min(0.02, math.log(change))))))
