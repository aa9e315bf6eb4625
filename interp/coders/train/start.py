"""What is found from the first rows: scales, and where the decoder's bias begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.train.config import TrainingConfig
from interp.errors import CoderError


@dataclass(frozen=True)
class Scales:
    """What inputs and outputs are multiplied by while training."""

    inputs: float = 1.0
    outputs: float = 1.0

    def apply(self, batch: CoderBatch) -> CoderBatch:
        """A batch in training units; gradients are divided, as they are per unit of x."""
        if self == Scales():
            return batch
        x = batch.x * self.inputs
        target = x if batch.is_reconstruction else batch.target * self.outputs
        grad = None if batch.grad is None else batch.grad / self.inputs
        return CoderBatch(x, target, grad, batch.token, batch.position, batch.prompt)


def find_scales(rows: CoderBatch, training: TrainingConfig) -> Scales:
    """Scales that bring the mean length of inputs and outputs to the square root of their width.

    Raises :class:`CoderError` for activations that are all zero or not finite.
    """
    for name in ("x", "target", "grad"):
        values = getattr(rows, name)
        if values is not None and not bool(values.isfinite().all()):
            raise CoderError(
                f"the first {len(rows)} rows are not all finite in {name}; {describe_rows(values)}."
            )
    if training.normalise == "none":
        return Scales()
    inputs = _scale(rows.x, "inputs")
    return Scales(inputs, inputs if rows.is_reconstruction else _scale(rows.target, "targets"))


def _scale(rows: Float[Tensor, "row *site d"], what: str) -> float:
    length = float(rows.float().norm(dim=-1).mean())
    if not 0 < length < float("inf"):
        raise CoderError(
            f"the {what} have a mean length of {length}; a coder needs activations that are not all zero."
        )
    return float(rows.shape[-1] ** 0.5 / length)


def describe_rows(values: Float[Tensor, "row *rest"]) -> str:
    """Which rows are not finite: ``"2 of 64 rows hold NaN or infinity, the first is row 5"``."""
    wrong = (~values.flatten(1).isfinite().all(1)).nonzero()[:, 0]
    return f"{len(wrong)} of {len(values)} rows hold NaN or infinity, the first is row {int(wrong[0])}"


@torch.no_grad()
def start_bias(coder: Coder, rows: CoderBatch, training: TrainingConfig) -> None:
    """Set ``b_dec`` from rows in training units."""
    if training.start == "zero":
        return
    targets = rows.target.flatten(1).to(coder.b_dec)
    found = targets.mean(0) if training.start == "mean" else geometric_median(targets)
    coder.b_dec.copy_(found)


def geometric_median(
    points: Float[Tensor, "row d"], iterations: int = 100, tolerance: float = 1e-6
) -> Float[Tensor, " d"]:
    """The point with the least summed distance to all, by Weiszfeld's iterations.

    It stops when a step is shorter than ``tolerance`` times the median's mean distance to the points.
    """
    median = points.mean(0)
    for _ in range(iterations):
        distances = (points - median).norm(dim=1).clamp(min=1e-12)
        weights = 1 / distances
        moved = (points * weights[:, None]).sum(0) / weights.sum()
        step = float((moved - median).norm())
        median = moved
        if step <= tolerance * float(distances.mean()):
            break
    return median
