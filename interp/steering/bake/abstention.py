"""What a model of the world of facts answers: right, made up, or ``unknown``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.tasks.facts import RELATIONS, UNKNOWN, Fact, facts_token_ids


@dataclass(frozen=True)
class AnswerRates:
    """Shares of questions, by what the likeliest next word is."""

    known_right: float
    """About known people, answered right."""
    known_abstained: float
    """About known people, answered ``unknown``."""
    made_up: float
    """About unseen people, answered with a word that answers the question."""
    unseen_abstained: float
    """About unseen people, answered ``unknown``; the rest is other words."""


def measure_answers(model: Model, known: Sequence[Fact], unseen: Sequence[Fact]) -> AnswerRates:
    """Ask about known and unseen people. Raises :class:`SteeringError` for another vocabulary and no questions."""
    ids = facts_token_ids()
    if model.tokenizer is None or model.tokenizer.get_vocab() != dict(ids):
        raise SteeringError(f"model {model.name!r} does not read the world of facts; load 'facts-3l'.")
    if not known or not unseen:
        raise SteeringError(f"give questions of both kinds; got {len(known)} and {len(unseen)}.")
    about_known, about_unseen = (_first_choices(model, facts) for facts in (known, unseen))
    right = about_known == torch.tensor([ids[fact.answer] for fact in known])
    fitting = torch.tensor([[ids[word] for word in RELATIONS[fact.relation]] for fact in unseen])
    return AnswerRates(
        known_right=_share(right),
        known_abstained=_share(about_known == ids[UNKNOWN]),
        made_up=_share((about_unseen[:, None] == fitting).any(1)),
        unseen_abstained=_share(about_unseen == ids[UNKNOWN]),
    )


@torch.no_grad()
def _first_choices(model: Model, facts: Sequence[Fact]) -> Int[Tensor, " fact"]:
    tokens, _ = model.to_padded_tokens([fact.prompt for fact in facts])
    return torch.cat([model(part)[:, -1].argmax(-1) for part in tokens.split(512)]).cpu()


def _share(chosen: Tensor) -> float:
    return float(chosen.float().mean())
