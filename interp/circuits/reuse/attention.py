"""Where heads are told to look: reading it, and making them.

A plan says, for one head and one labelled token, what share of the attention goes to which labelled tokens; the
rest of the head's attention is scaled to what is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CircuitError
from interp.models.interventions import Intervention, apply
from interp.models.model import Model
from interp.tasks.base import PromptPairs

Sources = str | Sequence[str] | Mapping[str, float]
"""A label of the task, several that share the attention alike, or labels with the share of each."""
HeadPlans = Mapping[str, Mapping[str, Sources]]
"""Head (``L2H1``) -> label of the token that looks -> where it looks."""

_HEAD = re.compile(r"^(?:L(\d+)H(\d+)|a(\d+)\.h(\d+))$")
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Plan:
    """One head's attention from one labelled token."""

    layer: int
    head: int
    dest: str
    weights: Mapping[str, float]

    @property
    def name(self) -> str:
        """``L2H1``."""
        return f"L{self.layer}H{self.head}"

    def moved(self, layer: int, head: int) -> Plan:
        """The same for another head."""
        return Plan(layer, head, self.dest, self.weights)


def read_head(name: str, model: Model) -> tuple[int, int]:
    """Layer and head of ``L2H1`` or ``a2.h1``. Raises :class:`CircuitError` for a head the model has not."""
    match = _HEAD.match(name)
    layer, head = (int(part) for part in match.groups() if part) if match else (-1, -1)
    traits = model.traits
    if not (0 <= layer < traits.n_layers and 0 <= head < traits.n_heads):
        raise CircuitError(
            f"{name!r} is no head of {model.name!r}; heads are written L0H0 to L{traits.n_layers - 1}"
            f"H{traits.n_heads - 1}."
        )
    return layer, head


def read_plans(heads: HeadPlans, model: Model, weight: float) -> list[Plan]:
    """What was asked for, head by head.

    Raises :class:`CircuitError` for heads that are not there, and for shares that are negative or above 1
    together.
    """
    plans = []
    for name, moves in heads.items():
        layer, head = read_head(name, model)
        for dest, sources in moves.items():
            listed = [sources] if isinstance(sources, str) else list(sources)
            alike = {source: weight / len(listed) for source in listed}
            weights = dict(sources) if isinstance(sources, Mapping) else alike
            total = sum(weights.values())
            if not weights or min(weights.values()) < 0 or total > 1 + _ROUNDING:
                raise CircuitError(
                    f"{name} from {dest} gets shares {weights}; expected at least one label, each with a share from 0 "
                    "up, of at most 1 together."
                )
            plans.append(Plan(layer, head, dest, weights))
    seen = [(plan.layer, plan.head, plan.dest) for plan in plans]
    if not plans or len(set(seen)) < len(seen):
        raise CircuitError(
            f"give at least one head with somewhere to look, and none twice; got {dict(heads)}."
        )
    return plans


@dataclass(frozen=True)
class Target:
    """A plan in the columns of a task's prompts."""

    plan: Plan
    dest: Int[Tensor, "prompt"]
    columns: Int[Tensor, "prompt source"]
    """Of the tokens looked at, in the order of ``plan.weights``."""

    def set_attention(
        self, pattern: Float[Tensor, "prompt dest_pos src_pos"], rows: Int[Tensor, "prompt"]
    ) -> Float[Tensor, "prompt dest_pos src_pos"]:
        """The head's patterns of these prompts with the plan in force.

        What is not named keeps its proportions. Where a head looks at named tokens only, they get it all.
        """
        here = torch.arange(len(pattern), device=pattern.device)
        dest, columns = (
            part.to(pattern.device)[rows.to(pattern.device)] for part in (self.dest, self.columns)
        )
        old = pattern[here, dest]
        weights = old.new_tensor(list(self.plan.weights.values())).expand(columns.shape)
        wanted = torch.zeros_like(old).scatter_add(1, columns, weights)
        named = torch.zeros_like(old).scatter(1, columns, 1.0).bool()
        rest = old.masked_fill(named, 0.0)
        total, given = rest.sum(1, keepdim=True), wanted.sum(1, keepdim=True)
        new = wanted + rest * (1 - given) / total.where(total > 0, 1.0)
        alone = torch.where(given > 0, wanted / given.where(given > 0, 1.0), old)
        pattern = pattern.clone()
        pattern[here, dest] = torch.where(total > 0, new, alone)
        return pattern


def place_plan(plan: Plan, task: PromptPairs) -> Target:
    """A plan at the task's labels.

    Raises :class:`TaskError` for a label the task has not, and :class:`CircuitError` where a token would look
    at a later one.
    """
    dest = task.columns_of(plan.dest).cpu()
    columns = torch.stack([task.columns_of(source).cpu() for source in plan.weights], dim=1)
    late = columns > dest[:, None]
    if bool(late.any()):
        row, place = late.nonzero()[0].tolist()
        raise CircuitError(
            f"{plan.name} cannot look from {plan.dest} to {list(plan.weights)[place]}, which comes later in prompt "
            f"{row}; choose other labels, or leave the prompt out with task.select(rows)."
        )
    return Target(plan, dest, columns)


def place_at_random(target: Target, real: Bool[Tensor, "prompt pos"], generator: torch.Generator) -> Target:
    """The same plan with every token looked at replaced by another, drawn in each prompt from those seen.

    Tokens that the plan names are drawn only where the others do not suffice; none is drawn twice where there
    are enough. Raises :class:`CircuitError` for a prompt where nothing else is seen.
    """
    place = torch.arange(real.shape[1])
    seen = real.cpu() & (place <= target.dest[:, None])
    others = seen & ~torch.zeros_like(seen).scatter(1, target.columns, True)
    if not bool(others.any(1).all()):
        row = int((~others.any(1)).int().argmax())
        raise CircuitError(
            f"every token that {target.plan.dest} of prompt {row} sees is named, so there is no other to look at; "
            "draw no control (n_random=0)."
        )
    # other tokens first, in random order; then the named ones; what is not seen last
    keys = torch.rand(seen.shape, generator=generator) + others.float() + seen.float()
    order = keys.argsort(dim=1, descending=True)
    wanted = torch.arange(target.columns.shape[1])
    return Target(target.plan, target.dest, order.gather(1, wanted % seen.sum(1, keepdim=True)))


def attention_edits(targets: Sequence[Target], rows: Int[Tensor, "prompt"]) -> list[Intervention]:
    """Interventions that put plans in force when these prompts of the task are run."""

    def edit(target: Target) -> Intervention:
        site = f"pattern[{target.plan.layer}.{target.plan.head}]"
        return apply(site, lambda pattern: target.set_attention(pattern, rows))

    return [edit(target) for target in targets]
