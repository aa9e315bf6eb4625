"""Prompts of the generated world by attribute, and the words by which a model's output is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.steering.neutral import reads_world
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES
from interp.tasks.sentences import (
    STEERABLE,
    draw_attribute_sentence,
    draw_attributes,
    draw_template,
)
from interp.tasks.templates import Split
from interp.tasks.world import generate_documents, token_ids

_MOST_SENTENCES = 5
"""Of a document."""


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

    Texts have the first ``sentences`` sentences of a document, fewer where it has fewer (``None``: all); the other
    attributes are drawn at random, or ``held`` at given values. Raises :class:`SteeringError` for an unknown attribute
    or value, the attribute itself ``held``, and less than one text of one sentence.
    """
    _check_steerable(attribute, held)
    if n < 1 or (sentences is not None and sentences < 1):
        raise SteeringError(f"give at least one text of one sentence; got n={n}, sentences={sentences}.")
    if attribute in (held or {}):
        raise SteeringError(f"{attribute} takes each of its values; only other attributes can be held.")
    found: dict[str, list[str]] = {value: [] for value in ATTRIBUTES[attribute]}
    for document in generate_documents(10**9, seed, split, kinds=["attributes"]):
        kept = document.sentences[:sentences]
        value = kept[0].attributes[attribute]
        same = all(sentence.attributes[attribute] == value for sentence in kept)
        fits = all(s.attributes[name] == wanted for s in kept for name, wanted in (held or {}).items())
        if same and fits and len(found[value]) < n:
            found[value].append(" ".join(word for sentence in kept for word in sentence.words))
        if all(len(texts) >= n for texts in found.values()):
            return found
    raise AssertionError("documents are endless")


def _check_steerable(attribute: str, held: Mapping[str, str] | None = None) -> None:
    if attribute not in STEERABLE:
        raise SteeringError(unknown_name("steerable attribute", attribute, STEERABLE))
    for name, value in (held or {}).items():
        if name not in STEERABLE or value not in ATTRIBUTES[name]:
            raise SteeringError(f"{name}={value} is no value of a steerable attribute: {dict(ATTRIBUTES)}.")


def parse_target(text: str) -> tuple[str, str]:
    """Attribute and value of a target as it is written: ``"sentiment=positive"``.

    Raises :class:`SteeringError` for text without ``=``, an unknown attribute and an unknown value.

    >>> parse_target("tense=past")
    ('tense', 'past')
    """
    attribute, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise SteeringError(f"a target is written attribute=value, such as sentiment=positive; got {text!r}.")
    _check_steerable(attribute)
    if value not in ATTRIBUTES[attribute]:
        raise SteeringError(unknown_name(f"value of {attribute}", value, ATTRIBUTES[attribute]))
    return attribute, value


def steerable_targets() -> tuple[str, ...]:
    """Every value of every steerable attribute, as ``"sentiment=positive"``."""
    return tuple(f"{attribute}={value}" for attribute in STEERABLE for value in ATTRIBUTES[attribute])


def contrast_prompts(
    target: str, n: int, seed: int = 0, *, split: Split = "train", sentences: int | None = 2
) -> tuple[list[str], list[str]]:
    """``n`` texts with a target value, and ``n`` with the attribute's other values, in equal shares.

    Raises :class:`SteeringError` for an unknown target, and for fewer texts than there are other values.
    """
    attribute, value = parse_target(target)
    others = [name for name in ATTRIBUTES[attribute] if name != value]
    if n < len(others):
        raise SteeringError(f"{target} has {len(others)} other values; ask for as many prompts; got n={n}.")
    found = attribute_prompts(attribute, n, seed, split=split, sentences=sentences)
    shares = [n // len(others) + (number < n % len(others)) for number in range(len(others))]
    rest = [text for name, share in zip(others, shares, strict=True) for text in found[name][:share]]
    return found[value], rest


def paired_prompts(
    target: str,
    n: int,
    seed: int = 0,
    *,
    against: str | None = None,
    split: Split = "train",
    sentences: int = 2,
) -> tuple[list[str], list[str]]:
    """``n`` texts with a target value, and each again with another value: same templates, other attributes, draws.

    Words that do not express the attribute are the same but where the verb follows the tense. The other values take
    turns, unless all are ``against`` one. Methods that look at differences need such pairs: on mix-4l PCA of the
    differences between two unrelated texts found what else they differ in (AUC for sentiment .54 at
    ``resid_post[1]``), with these the attribute (.95).

    Raises :class:`SteeringError` for an unknown target, an ``against`` that is not another of its values, and less
    than one text of one sentence.
    """
    attribute, value = parse_target(target)
    others = [name for name in ATTRIBUTES[attribute] if name != value]
    if against is not None:
        if against not in others:
            raise SteeringError(unknown_name(f"other value of {attribute}", against, others))
        others = [against]
    if n < 1 or sentences < 1:
        raise SteeringError(
            f"pairs take at least one text of one sentence; got n={n}, sentences={sentences}."
        )
    rng = Random(f"{seed}/{target}/pairs")
    sides: tuple[list[str], list[str]] = ([], [])
    for number in range(n):
        common, draws = draw_attributes(rng), rng.randrange(2**32)
        templates = [draw_template(rng, "attributes", split) for _ in range(sentences)]
        for side, own in zip(sides, (value, others[number % len(others)]), strict=True):
            same = Random(draws)
            drawn = [draw_attribute_sentence(same, one, common | {attribute: own}) for one in templates]
            side.append(" ".join(word for sentence in drawn for word in sentence.words))
    return sides


@dataclass(frozen=True)
class AttributedText:
    """A text whose every sentence has the same value of each steerable attribute."""

    text: str
    values: Mapping[str, str]
    """Attribute -> value."""

    def has(self, target: str) -> bool:
        """Whether it has the value, such as ``"tense=past"``."""
        attribute, value = parse_target(target)
        return self.values[attribute] == value


def attributed_texts(
    n: int, seed: int = 0, *, without: str | None = None, split: Split = "train", sentences: int = 2
) -> list[AttributedText]:
    """``n`` texts of so many sentences with all their values, drawn at random.

    ``without`` leaves those of one value out: what a steering towards it has yet to change. Raises
    :class:`SteeringError` for an unknown value, less than one text, and sentences that no document has.
    """
    if n < 1 or not 1 <= sentences <= _MOST_SENTENCES:
        raise SteeringError(
            f"give at least one text, of 1 to {_MOST_SENTENCES} sentences; got n={n}, sentences={sentences}."
        )
    found: list[AttributedText] = []
    for document in generate_documents(10**9, seed, split, kinds=["attributes"]):
        kept = document.sentences[:sentences]
        if len(kept) < sentences or any(s.attributes != kept[0].attributes for s in kept):
            continue
        text = " ".join(word for sentence in kept for word in sentence.words)
        one = AttributedText(text, {name: kept[0].attributes[name] for name in STEERABLE})
        if without is None or not one.has(without):
            found.append(one)
        if len(found) == n:
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
