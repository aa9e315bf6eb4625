"""Optimisers of the training step.

*Schedule-free* Adam (Defazio et al. 2024, "The Road Less Scheduled", arXiv 2405.15682, algorithm 1): gradients
are taken at ``y``, between a fast point ``z`` and the running mean ``x`` of it, which is what one keeps. No decay
and no end of training are needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from interp.coders.train.config import TrainingConfig


def make_optimizer(parameters: Iterable[nn.Parameter], training: TrainingConfig, rate: float) -> Any:
    """The optimiser that a config asks for."""
    listed = list(parameters)
    if training.optimizer == "schedule-free":
        return ScheduleFreeAdam(listed, rate, training.betas, training.epsilon)
    return torch.optim.Adam(listed, lr=rate, betas=training.betas, eps=training.epsilon, fused=True)


class ScheduleFreeAdam(torch.optim.Optimizer):
    """Adam without a schedule; the mean is weighted by the squared learning rate, bias correction included.

    Parameters are the points ``y`` at which gradients are taken, always; :meth:`mean` gives ``x``.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, dict(lr=lr, betas=betas, eps=eps, step=0, weight_sum=0.0))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            group["step"] += 1
            rate = group["lr"] * (1 - group["betas"][1] ** group["step"]) ** 0.5
            group["weight_sum"] += rate**2
            share = rate**2 / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, rate, share)

    def _move(self, y: Tensor, group: dict[str, Any], rate: float, share: float) -> None:
        (first, second), state = group["betas"], self.state[y]
        if not state:
            state["z"] = y.clone()
            state["squares"] = torch.zeros_like(y)
        z, squares, grad = state["z"], state["squares"], y.grad
        assert grad is not None
        squares.mul_(second).addcmul_(grad, grad, value=1 - second)
        update = grad / squares.sqrt().add_(group["eps"])
        # x is never held: y = (1 - first) z + first x is moved as x and z would move it
        y.lerp_(z, share)
        y.add_(update, alpha=rate * (first * (1 - share) - 1))
        z.sub_(update, alpha=rate)

    @torch.no_grad()
    def mean(self, parameter: nn.Parameter) -> Tensor:
        """``x``, the mean of a parameter's fast points: what one keeps. A tensor of its own."""
        z = self.state.get(parameter, {}).get("z")
        if z is None:
            return parameter.detach().clone()
        return torch.lerp(parameter, z, 1 - 1 / self._first_beta(parameter))

    @torch.no_grad()
    def keep_unit_rows(self, parameter: nn.Parameter) -> None:
        """Bring the rows of ``x`` and of ``z`` back to length 1, and ``y`` between them again."""
        z = self.state.get(parameter, {}).get("z")
        if z is None:
            return
        x = self.mean(parameter)
        for rows in (x, z):
            rows.div_(rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        parameter.copy_(torch.lerp(x, z, 1 - self._first_beta(parameter)))

    def _first_beta(self, parameter: nn.Parameter) -> float:
        for group in self.param_groups:
            if any(other is parameter for other in group["params"]):
                return float(group["betas"][0])
        raise KeyError("this parameter is not among the optimiser's.")
