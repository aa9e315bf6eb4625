"""Latents as detectors: which latent, above which threshold, tells best where something is the case.

For every latent all thresholds are tried at once: rows are sorted by the latent, and the hits above each
cut are running sums. F1 of a cut is ``2 hits / (rows taken + rows true)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detectors:
    """The best latent for each label, and its threshold: a row is taken where the latent is at least that."""

    latent: Int[Tensor, " label"]
    threshold: Float[Tensor, " label"]
    f1: Float[Tensor, " label"]
    """On the rows that they were chosen on; 0 where nothing was found."""

    def predict(self, latents: Float[Tensor, "row latent"]) -> Bool[Tensor, "row label"]:
        """Which rows are taken for each label."""
        return latents[:, self.latent] >= self.threshold


@dataclass(frozen=True, eq=False)
class DetectorQuality:
    """What detectors are worth on other rows; NaN where a label is never true there."""

    precision: Float[Tensor, " label"]
    """0 where no row is taken."""
    recall: Float[Tensor, " label"]
    f1: Float[Tensor, " label"]


def choose_detectors(
    latents: Float[Tensor, "row latent"],
    labels: Bool[Tensor, "row label"],
    counted: Bool[Tensor, "row label"] | None = None,
    *,
    sparse: bool = True,
) -> Detectors:
    """The latent and threshold of largest F1 for each label; of equals the first latent, its highest threshold.

    ``counted`` leaves rows out, label by label. ``sparse`` latents are silent at 0: rows where they are not
    above 0 are never taken. Thresholds lie midway between two values that occur.
    """
    true = labels if counted is None else labels & counted
    counted = torch.ones_like(labels) if counted is None else counted
    best = latents.new_zeros(labels.shape[1], dtype=torch.float64)
    threshold = torch.full_like(best, float("inf"), dtype=latents.dtype)
    chosen = torch.zeros_like(best, dtype=torch.long)
    for latent, values in enumerate(latents.T):
        rows = (values > 0).nonzero()[:, 0] if sparse else torch.arange(len(values), device=values.device)
        if not len(rows):
            continue
        f1, cuts = _try_cuts(values[rows], true[rows], counted[rows], true.sum(0), sparse)
        top, at = f1.max(0)
        better = top > best
        best = torch.where(better, top, best)
        chosen = torch.where(better, latent, chosen)
        threshold = torch.where(better, cuts[at], threshold)
    return Detectors(chosen, threshold, best.to(latents.dtype))


def _try_cuts(
    values: Float[Tensor, " row"],
    true: Bool[Tensor, "row label"],
    counted: Bool[Tensor, "row label"],
    n_true: Int[Tensor, " label"],
    sparse: bool,
) -> tuple[Float[Tensor, "cut label"], Float[Tensor, " cut"]]:
    """F1 of every cut between two different values, and its threshold; the highest first."""
    kept, order = values.sort(descending=True, stable=True)
    last = kept.new_zeros(1) if sparse else kept[-1:] - kept[-1:].abs() - 1
    lower = torch.cat([kept[1:], last])
    cuts = (kept != lower).nonzero()[:, 0]
    hits, taken = (part[order].cumsum(0)[cuts].double() for part in (true, counted))
    above, below = kept[cuts], lower[cuts]
    midway = (above + below) / 2
    # between two neighbouring numbers there is none
    return 2 * hits / (taken + n_true).clamp(min=1), torch.where(midway > below, midway, above)


def judge_detectors(
    detectors: Detectors,
    latents: Float[Tensor, "row latent"],
    labels: Bool[Tensor, "row label"],
    counted: Bool[Tensor, "row label"] | None = None,
) -> DetectorQuality:
    """Precision, recall and F1 of detectors on these rows."""
    taken, true = detectors.predict(latents), labels
    if counted is not None:
        taken, true = taken & counted, labels & counted
    hits, n_taken, n_true = ((part.sum(0).double()) for part in (taken & true, taken, true))
    nothing = n_true == 0
    missing = torch.full_like(hits, float("nan"))
    precision = torch.where(nothing, missing, hits / n_taken.clamp(min=1))
    recall = torch.where(nothing, missing, hits / n_true.clamp(min=1))
    f1 = torch.where(nothing, missing, 2 * hits / (n_taken + n_true).clamp(min=1))
    return DetectorQuality(*(part.to(latents.dtype) for part in (precision, recall, f1)))
