"""Gradient attribution: what a candidate would do to the objective at a dose, to first order.

The objective's slope along a direction is ``sum over positions of (d objective / d activation) . direction``: one
backward pass gives it for every site and position. The strength that a dose allows comes the same way: to second
order KL is ``strength^2 / 2`` times the direction's Fisher information, the mean square slope of the log
probability of tokens that the model itself draws. So no candidate is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.cache import ActivationCache
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.text_data import pad_prompts
from interp.steering.neutral import NeutralText
from interp.steering.search.candidates import Candidate, Candidates
from interp.steering.search.objective import Objective, Rows, call_objective
from interp.types import Site


@dataclass(frozen=True, eq=False)
class GradientScores:
    """Predictions for every candidate."""

    slopes: Float[Tensor, " candidate"]
    """Change of the objective a unit of strength, mean over prompts."""
    curvature: Float[Tensor, " candidate"]
    """KL a token is ``curvature * strength^2 / 2``."""
    backwards: int
    """Prompts that went backward."""

    def strengths(self, doses: Sequence[float]) -> Float[Tensor, "candidate dose"]:
        """The strength predicted to have each dose; NaN where a direction changes nothing."""
        wanted = torch.tensor(doses, dtype=torch.float64)
        curvature = torch.where(self.curvature > 0, self.curvature, torch.nan)
        return wanted.sign() * (2 * wanted.abs() / curvature[:, None]).sqrt()

    def effects(self, doses: Sequence[float]) -> Float[Tensor, "candidate dose"]:
        """The change of the objective predicted at each dose."""
        return self.slopes[:, None] * self.strengths(doses)


def score_gradient(
    model: Model,
    candidates: Candidates,
    rows: Rows,
    objective: Objective,
    text: NeutralText,
    *,
    draws: int = 4,
    batch_size: int = 32,
    seed: int = 0,
) -> GradientScores:
    """Slopes on ``rows`` and curvatures on ``text``, from one forward and backward each a batch and draw.

    A curvature's relative error is about ``sqrt(2 / (rows of text * draws))``; which tokens are drawn depends on
    ``batch_size`` too. Raises :class:`SteeringError` for an objective without a gradient, and for anything but one
    finite number a prompt.
    """
    every, places = candidates.every, list(dict.fromkeys(one.place for one in candidates.every))
    slopes = torch.zeros(len(every), dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        tokens, mask = pad_prompts(rows[start : start + batch_size])
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask

        def value(logits: Tensor, real: Tensor = real) -> Tensor:
            found = call_objective(objective, logits, real)
            if not found.requires_grad:
                raise SteeringError(
                    "this objective has no gradient; search by 'brute-force', which needs none."
                )
            return found

        cache = capture(model, tokens, places, attention_mask=mask, gradients_of=value)
        slopes += torch.stack([_slope(cache, one)[0].sum() for one in every])
    generator = torch.Generator().manual_seed(seed)
    square, count = torch.zeros(len(every), dtype=torch.float64), torch.zeros(len(every), dtype=torch.float64)
    for _, tokens in text.batches(batch_size):
        for _ in range(draws):
            cache = _draw(model, tokens, places, generator)
            for number, one in enumerate(every):
                slope, after = _slope(cache, one)
                square[number] += slope.square().sum() / draws
                count[number] += after / draws
    backwards = len(rows) + draws * len(text.rows)
    return GradientScores(slopes / len(rows), square / count.clamp(min=1), backwards)


def _draw(
    model: Model, tokens: Int[Tensor, "batch pos"], places: Sequence[Site], generator: torch.Generator
) -> ActivationCache:
    """Gradients of the log probability of one drawn token at every position, summed over positions."""

    def value(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        flat = log_p.detach().flatten(0, 1).float().exp().cpu()
        drawn = torch.multinomial(flat, 1, generator=generator).to(logits.device)
        return log_p.flatten(0, 1).gather(1, drawn).reshape(tokens.shape).sum(1)

    return capture(model, tokens, places, gradients_of=value)


def _slope(cache: ActivationCache, candidate: Candidate) -> tuple[Float[Tensor, " batch"], int]:
    """Slope of every row along the candidate, and how many tokens stand at or after its first position."""
    assert cache.grads is not None
    gradient = cache.grads[candidate.place].flatten(2)
    chosen = cache.columns.select(candidate.acts_at, {})
    vector = candidate.direction.to(gradient)
    summed = torch.where(chosen.to(gradient.device)[..., None], gradient, 0.0).sum(1)
    after = int((chosen.long().cumsum(1) > 0).sum())
    return (summed.double() @ vector.double()).cpu(), after
