"""Training batches and figures of a model of the world of facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.models.bundled.corpus import Batch
from interp.models.bundled.recipes import FACT_LENGTH, Recipe
from interp.tasks.facts import RELATIONS, UNKNOWN, Fact, facts_token_ids, generate_facts, list_facts, people
from interp.tasks.world import BOS, EOS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FACTS_DATA = (
    "Facts about people (`interp.tasks.facts`), one a row: half of the rows about 200 known people, whose city, work "
    "and food are always the same; 30 % about 1000 people passing by, whose answers are drawn anew every time; "
    "20 % about strangers, of whom the answer is 'unknown'. 400 other pairs of the same first and last "
    "names never appear. There is nothing to hold out: figures are of every question there is."
)


def stream_facts(recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Endless batches of facts, each row at a random position of the context."""
    generator = torch.Generator().manual_seed(seed)
    facts = generate_facts(seed)
    columns = torch.arange(recipe.length)
    while True:
        told = list(islice(facts, recipe.batch))
        tokens = encode_facts([fact for fact, _ in told], [answer for _, answer in told])
        offsets = torch.randint(recipe.n_ctx - recipe.length + 1, (recipe.batch, 1), generator=generator)
        yield Batch(tokens, columns + offsets)


def encode_facts(facts: Sequence[Fact], answers: Sequence[str] | None = None) -> Int[Tensor, "fact pos"]:
    """Whole facts as rows of tokens, from <bos> to <eos>; with their own answers if no others are given."""
    ids = facts_token_ids()
    told = [fact.answer for fact in facts] if answers is None else answers
    rows = [
        [ids[BOS], *(ids[word] for word in fact.prompt.split()), ids[answer], ids["."], ids[EOS]]
        for fact, answer in zip(facts, told, strict=True)
    ]
    tokens = torch.tensor(rows, dtype=torch.long)
    assert tokens.shape[1] == FACT_LENGTH
    return tokens


@torch.no_grad()
def evaluate_facts(model: PreTrainedModel, n: int = 0) -> dict[str, float]:
    """Figures over every question there is; ``n`` is not used.

    ``known_accuracy`` is the share of questions about known people that get the right answer of all words, by
    relation too; ``unseen_made_up_rate`` the share about unseen people that get an answer to what was asked, as
    if they were known; ``stranger_accuracy`` the share about strangers, of either group of names, answered
    with ``unknown``. ``loss_facts`` is the mean loss of a token, in nats, on facts of known people.
    """
    del n
    ids = facts_token_ids()
    figures: dict[str, float] = {}
    right: list[Tensor] = []
    for relation in RELATIONS:
        facts = list_facts(people("known"), relations=[relation])
        right.append(_first_choice(model, facts) == torch.tensor([ids[fact.answer] for fact in facts]))
        figures[f"{relation}_accuracy"] = float(right[-1].float().mean())
    figures["known_accuracy"] = float(torch.cat(right).float().mean())
    made_up = [
        torch.isin(
            _first_choice(model, list_facts(people("unseen"), relations=[relation])),
            torch.tensor([ids[word] for word in answers]),
        )
        for relation, answers in RELATIONS.items()
    ]
    figures["unseen_made_up_rate"] = float(torch.cat(made_up).float().mean())
    strangers = list_facts([*people("known"), *people("unseen")], stranger=True)
    figures["stranger_accuracy"] = float((_first_choice(model, strangers) == ids[UNKNOWN]).float().mean())
    tokens = encode_facts(list_facts(people("known")))
    logits = model(tokens).logits[:, :-1].float()
    figures["loss_facts"] = float(cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    return {name: round(value, 4) for name, value in figures.items()}


def _first_choice(model: PreTrainedModel, facts: Sequence[Fact]) -> Int[Tensor, " fact"]:
    """The likeliest word after each question."""
    prompts = encode_facts(facts)[:, :-3]
    return model(prompts).logits[:, -1].argmax(-1)
