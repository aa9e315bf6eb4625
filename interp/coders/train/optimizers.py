"""Optimisers of the training step.

*Schedule-free* Adam (Defazio et al. 2024, "The Road Less Scheduled", arXiv 2405.15682): gradients are taken at
``y``, between a fast point ``z`` and the running mean ``x`` of it, which is what one keeps. No decay and no
end of training are needed.
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
    """Adam without a schedule: algorithm 1 of the paper, its mean weighted by the squared learning rate.

    While :meth:`train` holds, parameters are the points at which gradients are taken; :meth:`eval` makes them
    the mean. A state is saved in either mode, and says which.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, dict(lr=lr, betas=betas, eps=eps, step=0, weight_sum=0.0, training=True))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step. Raises :class:`RuntimeError` while parameters are the mean."""
        for group in self.param_groups:
            if not group["training"]:
                raise RuntimeError("call train() before a step: the parameters are now the mean.")
            group["step"] += 1
            weight = group["lr"] ** 2
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, share)

    def _move(self, y: Tensor, group: dict[str, Any], share: float) -> None:
        (first, second), state = group["betas"], self.state[y]
        if not state:
            state["z"] = y.clone()
            state["squares"] = torch.zeros_like(y)
        z, squares, grad = state["z"], state["squares"], y.grad
        assert grad is not None
        squares.mul_(second).addcmul_(grad, grad, value=1 - second)
        size = (squares / (1 - second ** group["step"])).sqrt_().add_(group["eps"])
        update = grad / size
        # x is never held: y = (1 - first) z + first x is moved as x and z would move it
        y.lerp_(z, share)
        y.add_(update, alpha=group["lr"] * (first * (1 - share) - 1))
        z.sub_(update, alpha=group["lr"])

    def train(self) -> None:
        """Make the parameters the points at which gradients are taken."""
        self._switch(True)

    def eval(self) -> None:
        """Make the parameters the mean, which is what one keeps."""
        self._switch(False)

    @torch.no_grad()
    def _switch(self, training: bool) -> None:
        for group in self.param_groups:
            if group["training"] == training:
                continue
            first = group["betas"][0]
            # x = y + (1 - 1 / first) (z - y); y = x + (1 - first) (z - x)
            weight = 1 - first if training else 1 - 1 / first
            for parameter in group["params"]:
                if "z" in self.state[parameter]:
                    parameter.lerp_(self.state[parameter]["z"], weight)
            group["training"] = training
