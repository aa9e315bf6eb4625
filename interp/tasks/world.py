"""The generated English-like world: documents with known latent facts behind every word.

Text comes from a seed alone, is the same on every machine, and carries for each word what made
it: kind of document, template, role (``IO``, ``S1`` ...) and latent attributes (sentiment, topic,
tense, formality, gender, number). Coders and steering are scored against these.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from random import Random
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import TaskError, unknown_name
from interp.tasks.attributes import ATTRIBUTES
from interp.tasks.lexicon import (
    ARGUMENTS,
    BE,
    CENTURIES,
    COLORS,
    DURATIONS,
    ITEMS,
    NAMES,
    NOUNS,
    OBJECTS,
    PLACES,
    PRONOUNS,
    REGISTERS,
    SENTIMENTS,
    TENSES,
    TIME_WORDS,
    TOPICS,
    TWO_DIGITS,
    VERBS,
)
from interp.tasks.sentences import (
    DRAW,
    STEERABLE,
    Sentence,
    draw_attribute_sentence,
    draw_attributes,
    draw_repeated,
    draw_template,
    split_words,
)
from interp.tasks.templates import PRONOUN_ENDINGS, TEMPLATES, Split

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
SPECIAL_TOKENS = (BOS, EOS, PAD, UNK)

KINDS = (*DRAW, "attributes", "induction")
"""Kinds of document."""

DEFAULT_MIX: Mapping[str, float] = MappingProxyType(
    {
        "ioi": 0.26,
        "greater_than": 0.13,
        "pronouns": 0.08,
        "agreement": 0.16,
        "colored_objects": 0.06,
        "docstring": 0.07,
        "attributes": 0.12,
        "induction": 0.12,
    }
)
"""Share of documents of each kind in the bundled models' training text."""

SHIFT_PROBABILITY = 0.1
"""Chance that one attribute changes between two sentences of a document."""


@dataclass(frozen=True)
class Document:
    """One generated document: sentences that stand behind one another."""

    kind: str
    sentences: tuple[Sentence, ...]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word and sign, in order."""
        return tuple(word for sentence in self.sentences for word in sentence.words)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Role of each word; ``""`` for the words of a template."""
        return tuple(role for sentence in self.sentences for role in sentence.roles)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Id of the template that each word comes from."""
        return tuple(sentence.template for sentence in self.sentences for _ in sentence.words)

    def values_of(self, attribute: str) -> tuple[str | None, ...]:
        """Value of ``attribute`` in the sentence of each word; ``None`` where it has none.

        Raises :class:`TaskError` for an unknown attribute.
        """
        _check_attribute(attribute)
        return tuple(s.attributes.get(attribute) for s in self.sentences for _ in s.words)


def _check_attribute(attribute: str) -> None:
    if attribute not in ATTRIBUTES:
        raise TaskError(unknown_name("attribute", attribute, ATTRIBUTES))


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every token of the world in id order: special tokens, then words in alphabetical order."""
    phrases: list[str] = [*NAMES, *PLACES, *OBJECTS, *ITEMS, *COLORS, *DURATIONS, *CENTURIES, *TWO_DIGITS]
    phrases += [*ARGUMENTS, *PRONOUN_ENDINGS, *BE.values()]
    phrases += [word.form(number) for word in (*NOUNS, *VERBS) for number in ATTRIBUTES["number"]]
    phrases += [form for forms in PRONOUNS.values() for form in forms.values()]
    phrases += [phrase for times in TIME_WORDS.values() for phrase in times]
    verbs = [verb for topic in TOPICS.values() for verb in topic.verbs]
    for topic in TOPICS.values():
        phrases += [*topic.agents, *topic.objects, *topic.places]
    for sentiment in SENTIMENTS.values():
        phrases += [*sentiment.adjectives, *sentiment.adverbs, *sentiment.nouns]
        verbs += sentiment.reactions
    for register in REGISTERS.values():
        phrases += [*register.openers, *register.intensifiers, *register.negations.values(), *register.people]
        phrases += [people[0].upper() + people[1:] for people in register.people]
        verbs += register.beliefs
    phrases += [verb.form(tense) for verb in verbs for tense in TENSES]
    phrases += [text for group in TEMPLATES.values() for t in group for text in (t.prompt, t.rest)]
    literal = re.sub(r"\{\w+\}", " ", " ".join(phrases))
    return (*SPECIAL_TOKENS, *sorted(set(split_words(literal))))


@lru_cache(maxsize=1)
def token_ids() -> Mapping[str, int]:
    """Token -> id of the world's tokenizer."""
    return MappingProxyType({word: i for i, word in enumerate(vocabulary())})


def generate_documents(
    n: int, seed: int, split: Split = "train", kinds: Mapping[str, float] | Sequence[str] | None = None
) -> Iterator[Document]:
    """``n`` random documents, the same for the same arguments.

    ``split="heldout"`` uses templates (and, for IOI, pairs of names) that no training document has.
    ``kinds`` are the kinds to draw, with their shares if it is a mapping; :data:`DEFAULT_MIX`
    when left out. Raises :class:`TaskError` for an unknown kind or split.
    """
    if split not in ("train", "heldout"):
        raise TaskError(unknown_name("split", split, ("train", "heldout")))
    if kinds is None:
        kinds = DEFAULT_MIX
    shares = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    for kind in shares:
        if kind not in KINDS:
            raise TaskError(unknown_name("kind of document", kind, KINDS))
    return _generate(n, Random(f"{seed}/{split}"), split, shares)


def _generate(n: int, rng: Random, split: Split, shares: Mapping[str, float]) -> Iterator[Document]:
    names, weights = list(shares), list(shares.values())
    repeatable = vocabulary()[len(SPECIAL_TOKENS) :]
    for _ in range(n):
        kind = rng.choices(names, weights)[0]
        if kind == "attributes":
            yield Document(kind, tuple(_attribute_sentences(rng, split)))
        elif kind == "induction":
            yield Document(kind, (draw_repeated(rng, repeatable),))
        else:
            yield Document(kind, (DRAW[kind](rng, draw_template(rng, kind, split)),))


def _attribute_sentences(rng: Random, split: Split) -> Iterator[Sentence]:
    attributes = draw_attributes(rng)
    for index in range(rng.randint(2, 5)):
        if index and rng.random() < SHIFT_PROBABILITY:
            name = rng.choice(STEERABLE)
            attributes = attributes | {name: rng.choice(ATTRIBUTES[name])}
        yield draw_attribute_sentence(rng, draw_template(rng, "attributes", split), attributes)


NO_LABEL = -1
"""In label arrays: this token has no value here."""


@dataclass(frozen=True)
class LabelledTokens:
    """Rows of token ids of equal length with the latent facts of every token."""

    tokens: Int[Tensor, "row pos"]
    kinds: Int[Tensor, "row pos"]
    """Index into :data:`KINDS`; ``NO_LABEL`` on special tokens, as in every array here."""
    templates: Int[Tensor, "row pos"]
    """Index into ``template_names``."""
    roles: Int[Tensor, "row pos"]
    """Index into ``role_names``."""
    attributes: Mapping[str, Int[Tensor, "row pos"]]
    """Attribute -> index into its values, ``ATTRIBUTES[attribute]``."""
    template_names: tuple[str, ...]
    role_names: tuple[str, ...]


def pack_tokens(documents: Iterable[Document], length: int) -> Iterator[list[int]]:
    """Rows of ``length`` ids: <bos>, then documents with <eos> after each; the last one is cut.

    Every row begins with a document's first word; the rest of a cut document is left out.
    """
    ids = token_ids()
    bos, eos = ids[BOS], ids[EOS]
    row = [bos]
    for document in documents:
        row += [ids[word] for sentence in document.sentences for word in sentence.words]
        row.append(eos)
        if len(row) >= length:
            yield row[:length]
            row = [bos]


def generate_tokens(
    n: int,
    length: int = 64,
    *,
    seed: int = 0,
    split: Split = "train",
    kinds: Mapping[str, float] | Sequence[str] | None = None,
) -> Int[Tensor, "row pos"]:
    """``n`` rows of ``length`` tokens of the generated world, the text that the bundled models were trained on.

    As :func:`pack_tokens` packs the documents of :func:`generate_documents`; endlessly many seeds give text
    that no model has seen. Raises :class:`TaskError` for fewer than one row or two tokens, and as
    :func:`generate_documents` does.

    >>> generate_tokens(2, 8).shape
    torch.Size([2, 8])
    """
    if n < 1 or length < 2:
        raise TaskError(f"generate_tokens makes at least 1 row of at least 2 tokens; got {n} of {length}.")
    rows = pack_tokens(generate_documents(sys.maxsize, seed, split, kinds), length)
    return torch.tensor(list(islice(rows, n)), dtype=torch.long)


def label_tokens(documents: Iterable[Document], length: int) -> LabelledTokens:
    """Pack documents into rows as :func:`pack_tokens` does, and keep every token's labels.

    Raises :class:`TaskError` when the documents do not fill one row.
    """
    listed = list(documents)
    rows = list(pack_tokens(listed, length))
    if not rows:
        raise TaskError(
            f"{len(listed)} documents do not fill one row of {length} tokens; give more, or a shorter length."
        )
    template_names = tuple(sorted({name for document in listed for name in document.templates}))
    role_names = tuple(sorted({role for document in listed for role in document.roles} - {""}))
    template_index = {name: i for i, name in enumerate(template_names)}
    role_index = {name: i for i, name in enumerate(role_names)}

    def facts(document: Document) -> list[list[int]]:
        values = [
            [
                NO_LABEL if value is None else ATTRIBUTES[name].index(value)
                for value in document.values_of(name)
            ]
            for name in ATTRIBUTES
        ]
        return [
            [KINDS.index(document.kind)] * len(document.words),
            [template_index[name] for name in document.templates],
            [role_index.get(role, NO_LABEL) for role in document.roles],
            *values,
        ]

    labels = torch.tensor(list(_pack_labels(map(facts, listed), length)), dtype=torch.long)
    kinds, templates, roles, *attributes = labels.unbind(dim=1)
    return LabelledTokens(
        torch.tensor(rows, dtype=torch.long),
        kinds,
        templates,
        roles,
        dict(zip(ATTRIBUTES, attributes, strict=True)),
        template_names,
        role_names,
    )


def _pack_labels(documents: Iterable[list[list[int]]], length: int) -> Iterator[list[list[int]]]:
    """Rows [label, pos], with ``NO_LABEL`` where :func:`pack_tokens` puts a special token."""
    row: list[list[int]] | None = None
    for labels in documents:
        row = [[NO_LABEL] for _ in labels] if row is None else row
        for column, values in zip(row, labels, strict=True):
            column += [*values, NO_LABEL]
        if len(row[0]) >= length:
            yield [column[:length] for column in row]
            row = None
