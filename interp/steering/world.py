"""Prompts of the generated world by attribute, and the words by which a model's output is judged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.steering.neutral import reads_world
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES
from interp.tasks.sentences import STEERABLE
from interp.tasks.templates import Split
from interp.tasks.world import generate_documents, token_ids


def attribute_prompts(
    attribute: str,
    n: int,
    seed: int = 0,
    *,
    split: Split = "train",
    sentences: int | None = 2,
    held: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """``n`` texts for each value of a steerable attribute, whose every sentence has that value.

    Texts have the first ``sentences`` sentences of a document (``None``: all); the other attributes are drawn
    at random, or ``held`` at given values. Raises :class:`SteeringError` for an unknown attribute or value.
    """
    if attribute not in STEERABLE:
        raise SteeringError(unknown_name("steerable attribute", attribute, STEERABLE))
    for name, value in (held or {}).items():
        if name not in STEERABLE or value not in ATTRIBUTES[name]:
            raise SteeringError(f"{name}={value} is no value of a steerable attribute: {dict(ATTRIBUTES)}.")
    found: dict[str, list[str]] = {value: [] for value in ATTRIBUTES[attribute]}
    for document in generate_documents(10**9, seed, split, kinds=["attributes"]):
        kept = document.sentences[:sentences]
        value = kept[0].attributes[attribute]
        same = all(sentence.attributes[attribute] == value for sentence in kept)
        fits = all(s.attributes[name] == wanted for s in kept for name, wanted in (held or {}).items())
        if same and fits and len(found[value]) < n:
            found[value].append(" ".join(word for sentence in kept for word in sentence.words))
        if all(len(texts) == n for texts in found.values()):
            return found
    raise AssertionError("documents are endless")


def attribute_token_ids(model: Model, attribute: str) -> dict[str, Int[Tensor, " token"]]:
    """Ids of the words that express each value of an attribute and no other.

    Raises :class:`SteeringError` for a model with another vocabulary, and for an unknown attribute.
    """
    if not reads_world(model):
        raise SteeringError(
            f"model {model.name!r} does not read the generated world's words; load a bundled model such as 'mix-4l'."
        )
    if attribute not in ATTRIBUTE_WORDS:
        raise SteeringError(unknown_name("attribute", attribute, ATTRIBUTE_WORDS))
    ids = token_ids()
    return {
        value: torch.tensor(sorted(ids[word] for word in words if word in ids))
        for value, words in ATTRIBUTE_WORDS[attribute].items()
    }
