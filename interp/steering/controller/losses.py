"""What a controller is trained on: what the steered model does, or labels of prompts alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.model import Model
from interp.steering.controller.config import ControllerConfig
from interp.steering.controller.controller import Controller
from interp.steering.gated.behaviour import Behaviour
from interp.steering.gated.rollouts import Rollouts
from interp.steering.steering import Steering

_ROOT_AT_0 = 1e-6
"""Under the root of the KL, whose slope at 0 has no end."""


@dataclass(frozen=True, eq=False)
class StepFigures:
    """The loss of a batch and what it was made of, all with gradients."""

    loss: Float[Tensor, ""]
    act_gate: Float[Tensor, ""]
    leave_gate: Float[Tensor, ""]
    weights: Float[Tensor, " channel"]
    """Mean over the prompts to act on."""
    effect: Float[Tensor, ""] | None = None
    act_kl: Float[Tensor, ""] | None = None
    leave_kl: Float[Tensor, ""] | None = None

    def detached(self) -> StepFigures:
        """The numbers alone, on the CPU."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            values[name] = None if value is None else value.detach().float().cpu()
        return StepFigures(**values)


class Loss(Protocol):
    """Loss of a controller on two lists of prompts, by their numbers."""

    def __call__(
        self, controller: Controller, act: Int[Tensor, " n"], leave: Int[Tensor, " m"]
    ) -> StepFigures: ...


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """Cross-entropy of the gate with 1 on prompts to act on and 0 on the others; layer weights are not in it."""

    act: Float[Tensor, "n d_in"]
    """The controller's features of every prompt."""
    leave: Float[Tensor, "m d_in"]

    def __call__(self, controller: Controller, act: Tensor, leave: Tensor) -> StepFigures:
        odds, weights = controller.outputs(torch.cat([self.act[act], self.leave[leave]]))
        labels = (torch.arange(len(odds)) < len(act)).to(odds)
        return StepFigures(
            loss=torch.nn.functional.binary_cross_entropy_with_logits(odds, labels),
            act_gate=odds[: len(act)].sigmoid().mean(),
            leave_gate=odds[len(act) :].sigmoid().mean(),
            weights=weights[: len(act)].mean(0),
        )


@dataclass(frozen=True, eq=False)
class BehaviourLoss:
    """``-effect + leave_weight * root KL(leave) + budget_weight * relu(KL(act) - budget)`` of the steered model.

    Effect and KL are means over the tokens of a continuation, all terms then means over prompts. The root, since
    the KL is even in the gate: it hardly presses on a gate that is a little open, while the effect is linear.
    With the objective ``"both"`` the gate's cross-entropy with the labels is added.
    """

    model: Model
    steering: Steering
    strength: float
    behaviour: Behaviour
    act: Rollouts
    leave: Rollouts
    """Of as many prompt columns as ``act``."""
    budget: float
    config: ControllerConfig

    def __call__(self, controller: Controller, act: Tensor, leave: Tensor) -> StepFigures:
        batch = join_rollouts(self.act.select(act), self.leave.select(leave))
        n = len(act)
        steering = self.steering.gated(controller)
        with batch.continuing(self.model):
            with torch.no_grad():
                base = batch.logits(self.model)
            with steering.apply(self.model, strength=self.strength, any_model=True) as applied:
                steered = batch.logits(self.model)
        factors = applied.gate_of(controller)
        # weights are 1 on average
        gate = factors.mean(1)
        measured = batch.mean(self.behaviour.measure(steered) - self.behaviour.measure(base))
        kl = batch.mean(divergence(base, steered))
        effect, act_kl, leave_kl = measured[:n].mean(), kl[:n].mean(), kl[n:].mean()
        over = (act_kl - self.budget).clamp(min=0)
        root = (kl[n:] + _ROOT_AT_0).sqrt().mean()
        loss = self.config.leave_weight * root + self.config.budget_weight * over - effect
        if self.config.objective == "both":
            labels = (torch.arange(len(gate), device=gate.device) < n).to(gate)
            loss = loss + self.config.label_weight * cross_entropy(gate, labels)
        return StepFigures(
            loss=loss,
            act_gate=gate[:n].mean(),
            leave_gate=gate[n:].mean(),
            weights=(factors[:n] / gate[:n, None].clamp(min=1e-12)).mean(0),
            effect=effect,
            act_kl=act_kl,
            leave_kl=leave_kl,
        )


def join_rollouts(first: Rollouts, second: Rollouts) -> Rollouts:
    """Rows of both, which have the same columns."""
    return Rollouts(
        *(torch.cat([getattr(r, name) for r in (first, second)]) for name in ("tokens", "mask", "scored"))
    )


def divergence(
    base: Float[Tensor, "row new d_vocab"], steered: Float[Tensor, "row new d_vocab"]
) -> Float[Tensor, "row new"]:
    """KL(base || steered) with a gradient for ``steered``; words that the model never says add nothing."""
    log_p, log_q = base.float().log_softmax(-1), steered.float().log_softmax(-1)
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0)).sum(-1)


def cross_entropy(gate: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of gates in (0, 1) with labels 0 and 1."""
    return torch.nn.functional.binary_cross_entropy(gate.clamp(1e-6, 1 - 1e-6), labels)
