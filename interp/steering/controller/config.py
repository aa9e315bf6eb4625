"""How a controller is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from interp.errors import SteeringError, unknown_name

Objective = Literal["both", "behaviour", "labels"]
"""What the steered model does, whether the gate is open where it should be, or both."""


@dataclass(frozen=True)
class ControllerConfig:
    """Raises :class:`SteeringError` for numbers that mean nothing."""

    objective: Objective = "both"
    hidden: int = 16
    """Units of the network's one hidden layer."""
    n_steps: int = 100
    batch_size: int = 32
    """Prompts a step, half of either kind."""
    learning_rate: float = 1e-2
    """Of Adam; falls to 0 as a cosine."""
    weight_decay: float = 1e-3
    """Decoupled, on the two matrices."""
    leave_weight: float = 10.0
    """Nats of behaviour that a root KL of 1 on prompts to leave alone weighs."""
    budget_weight: float = 10.0
    """Nats of behaviour that each nat of KL weighs by which prompts to act on exceed what the steering costs there
    without a gate."""
    label_weight: float = 1.0
    """Nats of behaviour that a nat of the labels' cross-entropy weighs, where both are learned."""
    seed: int = 0
    """Of the network's start, the batches and the continuations."""

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise SteeringError(unknown_name("objective", self.objective, get_args(Objective)))
        if min(self.hidden, self.n_steps, self.batch_size - 1) < 1:
            raise SteeringError(
                f"hidden units and steps are at least 1, a batch at least 2; got {self.hidden}, {self.n_steps} and "
                f"{self.batch_size}."
            )
        weights = (self.weight_decay, self.leave_weight, self.budget_weight, self.label_weight)
        if not 0 < self.learning_rate < math.inf or not all(0 <= one < math.inf for one in weights):
            raise SteeringError(
                "the learning rate is above 0, weight decay and weights of the loss at least 0; got "
                f"{self.learning_rate} and {', '.join(map(str, weights))}."
            )
