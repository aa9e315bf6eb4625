"""Sums from which the next point of the curves is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.coder import CoderLoss
from interp.results.coder_history import PART


class Window:
    """Sums over the steps since the last point, kept where the activations are: no step waits for a figure."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    @torch.no_grad()
    def add(self, loss: CoderLoss, target: Float[Tensor, "row d_out"], l0: Float[Tensor, ""]) -> None:
        """Take in one step."""
        self.steps += 1
        found = {
            "loss": loss.loss.detach(),
            **{PART + name: value for name, value in loss.parts.items()},
            "l0": l0,
            "error": loss.error.square().sum(),
            "spread": (target - target.mean(0)).square().sum(),
        }
        for name, value in found.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def figures(self) -> dict[str, float]:
        """Means over steps; ``fvu`` over all rows, about each batch's mean."""
        found = {name: float(value) for name, value in self.sums.items()}
        error, spread = found.pop("error", 0.0), found.pop("spread", 0.0)
        means = {name: value / self.steps for name, value in found.items()}
        return means | {"fvu": error / spread if spread else float("nan")}
