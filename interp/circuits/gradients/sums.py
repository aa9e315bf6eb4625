"""Scores of prompts added up over blocks, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.gradients.block import Found
from interp.circuits.gradients.methods import (
    EdgeAttributionStar,
    EdgeIntegratedGradients,
    EdgeMethod,
    EdgeRelevance,
)
from interp.patching.attribution.block import Gap
from interp.patching.attribution.methods import rule_summary
from interp.types import Direction


@dataclass(frozen=True)
class EdgeEstimates:
    """Estimates of one call."""

    effects: Float[Tensor, " edge"]
    """Estimated change of the metric from the base run, averaged over prompts, in its own units."""
    standard_errors: Float[Tensor, " edge"]
    """Of ``effects``, over prompts; NaN for a single one."""
    magnitude: Float[Tensor, " edge"] | None
    """Of AtP*: GradDrop's mean size of the effect, in units of the metric."""
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    """The metric of the two runs."""
    notes: tuple[str, ...]
    gaps: dict[str, float]
    """Of integrated gradients: sum of effects less true change of the metric at every cut."""


class EdgeSums:
    """Sums over the prompts so far, in fp64 and on the CPU; no prompt's own scores are kept."""

    def __init__(self, n_edges: int, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._total = torch.zeros(n_edges, dtype=torch.float64)
        self._squares = torch.zeros_like(self._total)
        self._magnitude: Tensor | None = None
        self._base: list[Tensor] = []
        self._source: list[Tensor] = []
        self._gaps: list[list[Gap]] = []

    def add(self, found: Found) -> None:
        """Add a block of prompts."""
        for scores in found.scores:
            each = scores.double().cpu()
            self._total += each
            self._squares += each * each
        if found.magnitudes is not None:
            sizes = found.magnitudes.sum(0, dtype=torch.float64).cpu()
            self._magnitude = sizes if self._magnitude is None else self._magnitude + sizes
        self._base.append(found.base.cpu())
        self._source.append(found.source.cpu())
        self._gaps.append(found.gaps)

    def estimates(self, method: EdgeMethod, direction: Direction) -> EdgeEstimates:
        """Means over all prompts, and their errors."""
        base, source = torch.cat(self._base), torch.cat(self._source)
        n, mean = len(base), self._total / len(base)
        variance = (self._squares / n - mean * mean).clamp(min=0)
        errors = (variance / (n - 1)).sqrt() if n > 1 else torch.full_like(mean, float("nan"))
        clean, corrupted = (source, base) if direction == "denoise" else (base, source)
        totals = self._cuts()
        return EdgeEstimates(
            effects=mean.to(self._dtype),
            standard_errors=errors.to(self._dtype),
            magnitude=None if self._magnitude is None else (self._magnitude / n).to(self._dtype),
            clean=clean,
            corrupted=corrupted,
            notes=_notes(method, totals),
            gaps={cut: summed - true for cut, (summed, true) in totals.items()},
        )

    def _cuts(self) -> dict[str, tuple[float, float]]:
        """Sum of effects and true change at every cut, averaged over prompts."""
        found = {}
        for cut in zip(*self._gaps, strict=True):
            summed, true = (
                float(torch.cat([getattr(gap, side) for gap in cut]).double().mean())
                for side in ("summed", "true")
            )
            found[cut[0].cut] = (summed, true)
        return found


def _notes(method: EdgeMethod, cuts: dict[str, tuple[float, float]]) -> tuple[str, ...]:
    if isinstance(method, EdgeRelevance):
        return (f"two forward passes and one backward pass under {rule_summary(method.rules)}",)
    if isinstance(method, EdgeAttributionStar):
        fixed = "softmax recomputed for edges into queries and keys" if method.qk_fix else "no QK fix"
        dropped = "magnitudes by GradDrop" if method.grad_drop else "no GradDrop"
        return (f"{fixed}; {dropped}",)
    if not isinstance(method, EdgeIntegratedGradients):
        return ("two forward passes and one backward pass",)
    if method.over == "clean-corrupted":
        return ("the mean of the gradients at the clean and at the corrupted run",)
    name, (summed, true) = max(cuts.items(), key=lambda item: abs(item[1][0] - item[1][1]))
    most = "" if len(cuts) == 1 else f", the widest of {len(cuts)}"
    return (
        f"completeness: the edges out of {name} add up to {summed:+.4g} and the metric moves by {true:+.4g}, a gap "
        f"of {summed - true:+.2g}{most} ({method.steps} {method.quadrature} step{'s' * (method.steps > 1)})",
    )
