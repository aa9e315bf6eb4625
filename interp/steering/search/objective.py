"""What a search raises: a number a prompt, from the model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.steering.world import attribute_token_ids

Rows = Sequence[Int[Tensor, " _"]]
"""Prompts as tokens, each without padding."""


class Objective(Protocol):
    """From logits, and which tokens are real, to one number a prompt that steering is to raise."""

    def __call__(
        self, logits: Float[Tensor, "batch pos d_vocab"], real: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, " batch"]:
        """It must have a gradient where a search asks for one."""


@dataclass(frozen=True, eq=False)
class WordOdds:
    """Log-odds, in nats, that the next token is one of ``target`` and not one of ``other``.

    The mean over all tokens of the prompt, or at its last. ``other=None`` is the rest of the vocabulary: the
    refusal score of Arditi et al. 2024. Raises :class:`SteeringError` for no tokens, and some that are in both.
    """

    target: Int[Tensor, " token"]
    other: Int[Tensor, " rest"] | None = None
    at: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        if self.at not in ("all", "last"):
            raise SteeringError(unknown_name("place for log-odds", self.at, ("all", "last")))
        others = [] if self.other is None else self.other.tolist()
        if not len(self.target) or (others == [] and self.other is not None):
            raise SteeringError(
                "log-odds need tokens on both sides (other=None is all the rest); got none on one."
            )
        both = sorted(set(self.target.tolist()) & set(others))
        if both:
            raise SteeringError(f"tokens {both[:10]} are both wanted and unwanted; log-odds need two sides.")

    def __call__(self, logits: Tensor, real: Tensor) -> Tensor:
        target = self.target.to(logits.device)
        if self.other is None:
            rest = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            rest[target] = False
            other = rest.nonzero()[:, 0]
        else:
            other = self.other.to(logits.device)
        odds = logits[..., target].logsumexp(-1) - logits[..., other].logsumexp(-1)
        real = real.to(odds.device)
        if self.at == "last":
            columns = torch.arange(real.shape[1], device=real.device)
            last = torch.where(real, columns, -1).argmax(1)
            return odds.gather(1, last[:, None])[:, 0]
        return torch.where(real, odds, 0.0).sum(1) / real.sum(1)


def attribute_objective(
    model: Model, attribute: str, value: str, *, at: Literal["all", "last"] = "all"
) -> WordOdds:
    """Log-odds of the words of one value of an attribute of the generated world against those of its others.

    Raises :class:`SteeringError` for a model with another vocabulary, an unknown attribute or value.
    """
    ids = attribute_token_ids(model, attribute)
    if value not in ids:
        raise SteeringError(unknown_name(f"value of {attribute}", value, ids))
    other = torch.cat([tokens for name, tokens in ids.items() if name != value])
    return WordOdds(ids[value], other, at)


def read_objective(model: Model, objective: Objective | str | None) -> Objective:
    """An objective as given, or from ``"sentiment=positive"``. Raises :class:`SteeringError` for none."""
    if isinstance(objective, str):
        attribute, sign, value = objective.partition("=")
        if not sign:
            raise SteeringError(f"an objective is written 'sentiment=positive'; got {objective!r}.")
        return attribute_objective(model, attribute, value)
    if objective is None:
        raise SteeringError(
            "this search needs an objective to raise: 'sentiment=positive' on the bundled models, "
            "WordOdds(target ids, other ids), or a function of (logits, real) to one number a prompt."
        )
    return objective


def read_rows(model: Model, prompts: Prompts, name: str, text_column: str = "text") -> list[Tensor]:
    """All prompts as tokens. Raises :class:`SteeringError` without one."""
    rows = [row for item in open_items(prompts, text_column) for row in encode_item(model, item)]
    if not rows:
        raise SteeringError(f"there are no {name} prompts; give at least one.")
    return rows


def measure_objective(
    model: Model, rows: Rows, objective: Objective, batch_size: int = 32
) -> Float[Tensor, " prompt"]:
    """The objective of every prompt, in double precision. Steering that is active acts.

    Raises :class:`SteeringError` for an objective that gives anything but one finite number a prompt.
    """
    found: list[Tensor] = []
    for start in range(0, len(rows), batch_size):
        tokens, mask = pad_prompts(rows[start : start + batch_size])
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        with torch.no_grad():
            found.append(call_objective(objective, model(tokens, mask), real).double().cpu())
    return torch.cat(found)


def call_objective(
    objective: Objective, logits: Float[Tensor, "batch pos d_vocab"], real: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """What an objective gives. Raises :class:`SteeringError` for anything but one finite number a prompt."""
    values = objective(logits, real)
    if values.shape != real.shape[:1] or not bool(torch.isfinite(values).all()):
        raise SteeringError(
            f"an objective gives one finite number a prompt, [{len(real)}]; got {list(values.shape)}"
            f"{'' if torch.isfinite(values).all() else ' with NaN or infinity'}."
        )
    return values
