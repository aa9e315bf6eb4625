"""Sums from which the next point of the curves is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.coder import CoderLoss
from interp.coders.train.distributed import Processes
from interp.results.coder_history import PART


class Window:
    """Sums over the steps since the last point, kept where the activations are: no step waits for a figure."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    def add(self, figures: Mapping[str, Float[Tensor, ""]]) -> None:
        """Take in one step."""
        self.steps += 1
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def figures(self) -> dict[str, float]:
        """Means over steps; ``fvu`` over all rows, about each batch's mean."""
        found = {name: float(value) for name, value in self.sums.items()}
        error, spread = found.pop("error", 0.0), found.pop("spread", 0.0)
        means = {name: value / self.steps for name, value in found.items()}
        return means | {"fvu": error / spread if spread else float("nan")}


@torch.no_grad()
def measure_step(
    loss: CoderLoss, target: Float[Tensor, "row d_out"], l0: Float[Tensor, ""], processes: Processes
) -> dict[str, Float[Tensor, ""]]:
    """Figures of one step, means over processes: losses, ``l0``, squared ``error`` and ``spread`` of targets."""
    found = {
        "loss": loss.loss.detach().clone(),
        **{PART + name: value.clone() for name, value in loss.parts.items()},
        "l0": l0,
        "error": loss.error.square().sum(),
        "spread": (target - target.mean(0)).square().sum(),
    }
    if processes.n == 1:
        return found
    means = processes.add_up(torch.stack(list(found.values()))) / processes.n
    return dict(zip(found, means.unbind(), strict=True))
