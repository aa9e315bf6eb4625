"""Dose: the KL that a strength costs on neutral text, measured and looked up.

``KL(unsteered || steered)`` in nats a token, over the whole vocabulary, at the tokens from the first steered one
of a row on. A steering of generated tokens only (``@gen``) is measured on text whose first quarter is the prompt
and whose rest counts as generated. Gates are left out: a dose is that of a prompt that is steered in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.positions import Prompt
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.neutral import NeutralText, read_neutral
from interp.steering.steering import Steering
from interp.types import GENERATED

_BATCH = 16
_RESAMPLES = 1000
_LARGEST_STRENGTH = 2.0**14
_SMALLEST_STRENGTH = 2.0**-14
_SETTLED = 1.02
"""Twice the strength that brings less than this times the KL has reached all there is."""


@dataclass(frozen=True, eq=False)
class KLByRow:
    """KL summed over the steered tokens of each row, by strength."""

    total: Float[Tensor, "strength row"]
    count: Int[Tensor, " row"]

    @property
    def mean(self) -> Float[Tensor, " strength"]:
        """Nats a token."""
        return self.total.sum(1) / self.count.sum()

    def intervals(self, confidence: float, seed: int) -> tuple[Tensor, Tensor]:
        """Percentile intervals of the mean, rows drawn with replacement: [strength] low and high."""
        n = len(self.count)
        rng = np.random.default_rng(seed)
        counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(_RESAMPLES)])
        sums = counts @ self.total.numpy().T
        weight = (counts @ self.count.numpy())[:, None]
        tail = 50 * (1 - confidence)
        low, high = np.percentile(sums / np.maximum(weight, 1), [tail, 100 - tail], axis=0)
        return torch.from_numpy(low), torch.from_numpy(high)


def measure_kl(
    model: Model,
    steering: Steering,
    strengths: Sequence[float],
    text: NeutralText,
    *,
    batch_size: int = _BATCH,
    progress: Callable[[], object] | None = None,
) -> KLByRow:
    """KL(unsteered || steered) of every row of ``text`` at several strengths.

    Interventions that are active act in both. Raises :class:`SteeringError` where the steering touches no
    token of the text.
    """
    steering = steering.gated(None)
    total = torch.zeros(len(strengths), len(text.rows), dtype=torch.float64)
    count = torch.zeros(len(text.rows), dtype=torch.long)
    for rows, tokens in text.batches(batch_size):
        with torch.no_grad(), as_continued(model, steering, tokens):
            base = model(tokens)
            for number, strength in enumerate(strengths):
                with steering.apply(model, strength=strength, any_model=True) as applied:
                    steered = model(tokens)
                after = _from_first(applied.touched)
                divergence = kl_by_token(base, steered)
                total[number, rows] = torch.where(after, divergence.cpu(), 0).sum(1)
                count[rows] = after.sum(1)
                if progress is not None:
                    progress()
    if not bool(count.any()):
        raise SteeringError("the steering acts on no token of the neutral text; it has no dose there.")
    return KLByRow(total, count)


def kl_by_token(
    base: Float[Tensor, "batch pos d_vocab"], steered: Float[Tensor, "batch pos d_vocab"]
) -> Float[Tensor, "batch pos"]:
    """KL(base || steered) of logits at every token, in double precision where rounding would show."""
    found = torch.empty(base.shape[:2], dtype=torch.float64, device=base.device)
    for row in range(len(base)):
        log_base, log_steered = (x[row].double().log_softmax(-1) for x in (base, steered))
        terms = torch.where(log_base == -torch.inf, 0.0, log_base.exp() * (log_base - log_steered))
        found[row] = terms.sum(-1)
    return found.clamp(min=0)


def _from_first(touched: Tensor) -> Tensor:
    return touched.long().cumsum(1) > 0


def as_continued(
    model: Model, steering: Steering, tokens: Int[Tensor, "batch pos"]
) -> AbstractContextManager[None]:
    """Take three quarters of the rows as generated where the steering acts on generated tokens only."""
    if model.generating_from is not None or not acts_on_generated_only(steering):
        return nullcontext()
    n_prompt = max(1, tokens.shape[1] // 4)
    return model.continuing(Prompt.from_mask(len(tokens), n_prompt, None))


def acts_on_generated_only(steering: Steering) -> bool:
    """Whether no step acts within a prompt."""
    return all(step.site.positions == (GENERATED,) for step in steering.steps)


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
    batch_size: int = _BATCH,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Steering:
    """The steering with its dose measured: KL on neutral text by strength, up to ``max_dose`` nats.

    ``neutral`` is data as for :func:`interp.capture_stream` (the first ``n`` rows, cut to ``length`` tokens);
    text of the generated world if left out. The largest strength is found by doubling; ``n_strengths`` from 0
    to it are measured on either side, evenly spaced, as the root of the KL grows evenly. An operation that has
    an end (projecting out) is measured to its end.

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
    few = replace(text, rows=text.rows[: min(8, len(text.rows))])
    ends = [1.0, -1.0] if both_signs else [1.0]
    largest = [_largest_strength(model, steering, sign, few, max_dose, batch_size) for sign in ends]
    strengths = sorted(
        {0.0, *(end * (i + 1) / n_strengths for end in largest for i in range(n_strengths) if end)}
    )
    if len(strengths) == 1:
        raise SteeringError(
            f"no strength up to {_LARGEST_STRENGTH:g} changes the model's output: {steering!r}."
        )
    n_batches = sum(1 for _ in text.batches(batch_size))
    with tqdm(total=n_batches * len(strengths), disable=not progress, desc="dose") as bar:
        found = measure_kl(model, steering, strengths, text, batch_size=batch_size, progress=bar.update)
    low, high = found.intervals(confidence, seed)
    calibration = DoseCalibration(
        strengths=torch.tensor(strengths, dtype=torch.float64),
        kl=found.mean,
        low=low,
        high=high,
        confidence=confidence,
        text=text.describe(),
        n_tokens=int(found.count.sum()),
        provenance=Provenance(
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
        ),
    )
    return replace(steering, calibration=calibration)


def _full_strength(steering: Steering) -> float | None:
    """The strength at which some step has reached its end; ``None`` where there is always more."""
    found = [
        step.operation.full_strength / abs(step.weight)
        for step in steering.steps
        if step.operation.full_strength is not None and step.weight
    ]
    return min(found) if found else None


def _largest_strength(
    model: Model, steering: Steering, sign: float, text: NeutralText, max_dose: float, batch_size: int
) -> float:
    """A strength of this sign with a KL of a little more than ``max_dose``, or the largest there is; 0 for none."""
    end = _full_strength(steering)
    if end is not None:
        return sign * end

    def kl(strength: float) -> float:
        return float(measure_kl(model, steering, [sign * strength], text, batch_size=batch_size).mean)

    strength, wanted = 1.0, 1.1 * max_dose
    here = kl(strength)
    while here > wanted and strength > _SMALLEST_STRENGTH:
        strength /= 2
        here = kl(strength)
    while here < wanted and strength < _LARGEST_STRENGTH:
        there = kl(2 * strength)
        if 1e-3 < there < _SETTLED * here:
            break
        strength, here = 2 * strength, there
    if here == 0:
        return 0.0
    # the root of the KL is about even in the strength: draw the end in where doubling went far beyond
    while here > 2 * wanted:
        closer = strength * (wanted / here) ** 0.5
        smaller = kl(closer)
        if smaller < wanted:
            return sign * (strength + closer) / 2
        strength, here = closer, smaller
    return sign * strength


def find_strength(
    model: Model,
    steering: Steering,
    dose: float,
    text: NeutralText,
    *,
    tolerance: float = 0.01,
    batch_size: int = _BATCH,
) -> float:
    """The smallest strength whose KL on ``text`` is ``dose`` nats, to a share of ``tolerance``, by bracketing.

    For comparisons at equal dose, more exact than looking a calibration up. A negative dose is a negative
    strength. Raises :class:`SteeringError` where no strength reaches it.
    """
    if not dose:
        return 0.0
    sign, wanted = (-1.0 if dose < 0 else 1.0), abs(dose) ** 0.5

    def root(strength: float) -> float:
        found = measure_kl(model, steering, [sign * strength], text, batch_size=batch_size)
        return float(found.mean) ** 0.5

    end = _full_strength(steering) or _LARGEST_STRENGTH
    low, at_low = 0.0, 0.0
    high = min(1.0, end)
    at_high = root(high)
    while at_high < wanted:
        if high >= end:
            raise SteeringError(
                f"no strength up to {end:g} reaches {abs(dose):g} nats: {at_high**2:.4g} there ({steering!r})."
            )
        low, at_low = high, at_high
        high = min(2 * high, end)
        at_high = root(high)
    for _ in range(40):
        guess = low + (high - low) * (wanted - at_low) / (at_high - at_low)
        # away from the ends, or one of them would never move
        guess = min(max(guess, low + 0.1 * (high - low)), high - 0.1 * (high - low))
        found = root(guess)
        if abs(found**2 / abs(dose) - 1) <= tolerance:
            return sign * guess
        low, at_low, high, at_high = (
            (guess, found, high, at_high) if found < wanted else (low, at_low, guess, found)
        )
    return sign * high
