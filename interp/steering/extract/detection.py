"""How well numbers tell the two sides apart: areas under curves, for all units at once, ties counted as ties."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError


def average_precision(
    scores: Float[Tensor, "row unit"], answers: Bool[Tensor, " row"]
) -> Float[Tensor, " unit"]:
    """Average precision of every unit: mean over the yes rows of the precision at their score.

    ``sum over distinct scores (R_n - R_{n-1}) P_n`` from the largest down; equal scores are one step. A unit
    that says nothing has the share of yes rows. Raises :class:`SteeringError` unless there are both answers.
    """
    hits, _, ends = _ranked(scores, answers)
    taken = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)[:, None]
    precision = hits.cumsum(0) / taken
    return (hits * precision.gather(0, ends)).sum(0) / hits.sum(0)


def roc_area(scores: Float[Tensor, "row unit"], answers: Bool[Tensor, " row"]) -> Float[Tensor, " unit"]:
    """Chance that a yes row scores above a no row, ties half, of every unit (Mann-Whitney).

    Raises :class:`SteeringError` unless there are both answers.
    """
    hits, starts, ends = _ranked(scores, answers)
    misses = 1 - hits
    total, found = misses.sum(0), misses.cumsum(0)
    # of a yes row: the no rows after its group, and half of those in it
    through, before = found.gather(0, ends), (found - misses).gather(0, starts)
    below = total - through + (through - before) / 2
    return (hits * below).sum(0) / (hits.sum(0) * total)


def separation(scores: Float[Tensor, "row unit"], answers: Bool[Tensor, " row"]) -> Float[Tensor, " unit"]:
    """Mean of the yes rows minus that of the no rows, in standard deviations of all; 0 for a constant unit."""
    gap, spread = scores[answers].mean(0) - scores[~answers].mean(0), scores.std(0)
    return torch.where(spread > 0, gap / spread.clamp(min=1e-12), 0.0)


def order_units(precision: Float[Tensor, " unit"], gap: Float[Tensor, " unit"]) -> Int[Tensor, " unit"]:
    """Units by average precision, the best first; of equals those of the larger separation.

    With few prompts many units are perfect, and their order would be that of their numbers: the first layers.
    """
    by_gap = gap.argsort(descending=True, stable=True)
    return by_gap[precision[by_gap].argsort(descending=True, stable=True)]


def _ranked(
    scores: Float[Tensor, "row unit"], answers: Bool[Tensor, " row"]
) -> tuple[Float[Tensor, "row unit"], Int[Tensor, "row unit"], Int[Tensor, "row unit"]]:
    """From the largest score down: whether the answer is yes, and the first and last row of its equals."""
    n_yes = int(answers.sum())
    if not 0 < n_yes < len(answers):
        raise SteeringError(f"units are ranked on rows of both answers; {n_yes} of {len(answers)} are yes.")
    if not bool(torch.isfinite(scores).all()):
        raise SteeringError("units hold NaN or infinity; they cannot be ranked.")
    ranked, order = scores.sort(dim=0, descending=True, stable=True)
    rows = torch.arange(len(scores), device=scores.device)[:, None].expand_as(ranked)
    differs = ranked[1:] != ranked[:-1]
    edge = torch.ones_like(differs[:1])
    starts = torch.where(torch.cat([edge, differs]), rows, 0).cummax(0).values
    last = torch.where(torch.cat([differs, edge]), rows, len(scores) - 1)
    return answers[order].double(), starts, last.flip(0).cummin(0).values.flip(0)
