"""Measuring KL(unsteered || steered) on neutral text, in nats a token.

The mean is over the tokens from the first steered one of a row on. A steering that names generated tokens (``@gen``)
in some step is measured on text whose first quarter is the prompt and whose rest counts as generated. Gates are left
out: a dose is that of a prompt that is steered in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.positions import Columns, Prompt
from interp.steering.neutral import NeutralText
from interp.steering.steering import Steering, Step
from interp.types import ALL, EACH, GENERATED

BATCH = 16
_RESAMPLES = 1000
_KEPT_BYTES = 2**28
"""Most memory for outputs of the unsteered model that are kept between strengths."""
_NO_TOKEN = "the steering acts on no token of the neutral text; it has no dose there."


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
        used = self.count > 0
        total, count = self.total[:, used].numpy(), self.count[used].numpy()
        n = len(count)
        rng = np.random.default_rng(seed)
        counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(_RESAMPLES)])
        means = (counts @ total.T) / (counts @ count)[:, None]
        tail = 50 * (1 - confidence)
        low, high = np.percentile(means, [tail, 100 - tail], axis=0)
        return torch.from_numpy(low), torch.from_numpy(high)


class KLMeter:
    """Measures a steering on one text at any strengths; what the unsteered model says is kept if it is not too large.

    Interventions that are active act in both. Raises :class:`SteeringError` for a steering of named rows or
    labels, which neutral text does not have.
    """

    def __init__(
        self, model: Model, steering: Steering, text: NeutralText, *, batch_size: int = BATCH
    ) -> None:
        if batch_size < 1:
            raise SteeringError(f"batch_size is at least 1; got {batch_size}.")
        self.model, self.steering, self.text = model, steering.gated(None), text
        self.batch_size = batch_size
        n_tokens = sum(map(len, text.rows))
        self._keep = 8 * n_tokens * model.traits.d_vocab <= _KEPT_BYTES
        self._kept: dict[int, Tensor] = {}
        for step in self.steering.steps:
            _check_place(step)

    @property
    def n_batches(self) -> int:
        """Forwards of one strength."""
        return sum(1 for _ in self.text.batches(self.batch_size))

    def measure(self, strengths: Sequence[float], progress: Callable[[], object] | None = None) -> KLByRow:
        """KL of every row at every strength. Raises :class:`SteeringError` where no token is steered."""
        n_rows = len(self.text.rows)
        total = torch.zeros(len(strengths), n_rows, dtype=torch.float64)
        count = torch.zeros(n_rows, dtype=torch.long)
        for batch, (rows, tokens) in enumerate(self.text.batches(self.batch_size)):
            with torch.no_grad(), as_continued(self.model, self.steering, tokens):
                here = _steps_on(self.model, self.steering, tokens)
                log_base = None if here is None else self._log_base(batch, tokens)
                for number, strength in enumerate(strengths):
                    if here is not None and log_base is not None:
                        found, after = self._steered(here, tokens, log_base, strength)
                        total[number, rows] = torch.where(after, found.cpu(), 0).sum(1)
                        count[rows] = after.sum(1)
                    if progress is not None:
                        progress()
        if not bool(count.any()):
            raise SteeringError(_NO_TOKEN)
        return KLByRow(total, count)

    def _log_base(self, batch: int, tokens: Tensor) -> Tensor:
        if batch in self._kept:
            return self._kept[batch]
        logits = self.model(tokens)
        if not self._keep:
            return logits
        self._kept[batch] = found = logits.double().log_softmax(-1)
        return found

    def _steered(
        self, steering: Steering, tokens: Tensor, log_base: Tensor, strength: float
    ) -> tuple[Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        with steering.apply(self.model, strength=strength, any_model=True) as applied:
            logits = self.model(tokens)
        return kl_by_token(log_base, logits, normalised=self._keep), applied.touched.long().cumsum(1) > 0


def measure_kl(
    model: Model,
    steering: Steering,
    strengths: Sequence[float],
    text: NeutralText,
    *,
    batch_size: int = BATCH,
    progress: Callable[[], object] | None = None,
) -> KLByRow:
    """KL(unsteered || steered) of every row of ``text`` at several strengths.

    Rows without a steered token count for nothing. Interventions that are active act in both. Raises
    :class:`SteeringError` where the steering touches no token of the text, or names rows or labels.
    """
    return KLMeter(model, steering, text, batch_size=batch_size).measure(strengths, progress)


def kl_by_token(
    base: Float[Tensor, "batch pos d_vocab"],
    steered: Float[Tensor, "batch pos d_vocab"],
    *,
    normalised: bool = False,
) -> Float[Tensor, "batch pos"]:
    """KL(base || steered) of logits at every token, in double precision where rounding would show.

    ``normalised`` says that ``base`` are log probabilities.
    """
    found = torch.empty(base.shape[:2], dtype=torch.float64, device=base.device)
    for row in range(len(base)):
        log_base = base[row] if normalised else base[row].double().log_softmax(-1)
        log_steered = steered[row].double().log_softmax(-1)
        terms = torch.where(log_base == -torch.inf, 0.0, log_base.exp() * (log_base - log_steered))
        found[row] = terms.sum(-1)
    return found.clamp(min=0)


def steered_rows(model: Model, steering: Steering, text: NeutralText, n: int) -> NeutralText:
    """The first ``n`` rows with a token that is steered. Raises :class:`SteeringError` where there is none."""
    found: list[Tensor] = []
    for row in text.rows:
        with as_continued(model, steering, row[None]):
            if _steps_on(model, steering, row[None]) is not None:
                found.append(row)
        if len(found) == n:
            break
    if not found:
        raise SteeringError(_NO_TOKEN)
    return replace(text, rows=tuple(found))


def as_continued(
    model: Model, steering: Steering, tokens: Int[Tensor, "batch pos"]
) -> AbstractContextManager[None]:
    """Take three quarters of the rows as generated where a step of the steering names generated tokens."""
    if model.generating_from is not None or not names_generated(steering):
        return nullcontext()
    n_prompt = max(1, tokens.shape[1] // 4)
    return model.continuing(Prompt.from_mask(len(tokens), n_prompt, None))


def names_generated(steering: Steering) -> bool:
    """Whether some step names generated tokens, of which a whole prompt has none."""
    return any(GENERATED in (step.site.positions or ()) for step in steering.steps)


def _check_place(step: Step) -> None:
    known = (ALL, EACH, GENERATED, "END")
    labels = [p for p in step.site.positions or () if isinstance(p, str) and p not in known]
    if labels or step.site.rows is not None:
        what = f"labels of a task ({', '.join(labels)})" if labels else "rows of a batch"
        raise SteeringError(
            f"{step} names {what}, which neutral text does not have: it has no dose. Calibrate the steering at other "
            "positions, or give strength instead of dose."
        )


def _steps_on(model: Model, steering: Steering, tokens: Tensor) -> Steering | None:
    """The steps that lie on some token of a batch; a row may be too short for the others."""
    batch, n = tokens.shape
    prompt = model.generating_from or Prompt.from_mask(batch, n, None)
    columns, on_cpu = Columns(prompt, 0, n), tokens.cpu()

    def lies_here(step: Step) -> bool:
        chosen = columns.select(step.site, {})
        if step.where is not None and bool(chosen.any()):
            chosen = chosen & step.where.select(model, on_cpu, columns)
        return bool(chosen.any())

    steps = tuple(step for step in steering.steps if lies_here(step))
    return replace(steering, steps=steps) if steps else None
