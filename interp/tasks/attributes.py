"""Latent attributes of the generated text, the words that express them, and a measure by counting.

Every attribute is spread over many words, so that a direction for it cannot be one word's embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from interp.errors import TaskError, unknown_name
from interp.tasks.lexicon import (
    BE,
    FEMALE_NAMES,
    MALE_NAMES,
    NOUNS,
    PRONOUNS,
    REGISTERS,
    SENTIMENTS,
    TENSES,
    TIME_WORDS,
    TOPICS,
    VERBS,
    TensedVerb,
)

ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sentiment": tuple(SENTIMENTS),
        "topic": tuple(TOPICS),
        "tense": TENSES,
        "formality": tuple(REGISTERS),
        "gender": ("female", "male"),
        "number": ("singular", "plural"),
    }
)
"""Latent attributes and their values, in the order that label arrays use."""

_SHARED = frozenset({"the", "this", "not", "be", "did", "does", "will"})
"""Words of the phrases below that sentences of another value use too."""


def measure_attribute(words: Iterable[str], attribute: str) -> dict[str, int]:
    """How many of ``words`` express each value of ``attribute``.

    Raises :class:`TaskError` for an unknown attribute.

    >>> measure_attribute("The baker baked a lovely cake".split(), "sentiment")
    {'positive': 1, 'negative': 0}
    """
    if attribute not in ATTRIBUTE_WORDS:
        raise TaskError(unknown_name("attribute", attribute, ATTRIBUTE_WORDS))
    listed = list(words)
    return {
        value: sum(word in expressing for word in listed)
        for value, expressing in ATTRIBUTE_WORDS[attribute].items()
    }


def _forms(verbs: Iterable[TensedVerb]) -> list[str]:
    return [form for verb in verbs for form in (verb.base, verb.present, verb.past)]


def _sentiment_words() -> dict[str, list[str]]:
    return {
        value: [*words.adjectives, *words.adverbs, *words.nouns, *_forms(words.reactions)]
        for value, words in SENTIMENTS.items()
    }


def _topic_words() -> dict[str, list[str]]:
    return {
        value: [*words.agents, *words.objects, *words.places, *_forms(words.verbs)]
        for value, words in TOPICS.items()
    }


def _tense_words() -> dict[str, list[str]]:
    phrases = {
        tense: [
            *TIME_WORDS[tense],
            BE[tense],
            *(register.negations[tense] for register in REGISTERS.values()),
        ]
        for tense in TENSES
    }
    words = {tense: " ".join(phrases[tense]).split() for tense in TENSES}
    verbs = [verb for topic in TOPICS.values() for verb in topic.verbs]
    verbs += [verb for sentiment in SENTIMENTS.values() for verb in sentiment.reactions]
    verbs += [verb for register in REGISTERS.values() for verb in register.beliefs]
    words["past"] += [verb.past for verb in verbs] + ["did"]
    words["present"] += [verb.present for verb in verbs] + ["does"]
    words["future"] += ["will"]
    return words


def _formality_words() -> dict[str, list[str]]:
    return {
        value: [
            *words.openers,
            *words.intensifiers,
            *" ".join([*words.people, *words.negations.values()]).split(),
            *_forms(words.beliefs),
        ]
        for value, words in REGISTERS.items()
    }


def _gender_words() -> dict[str, list[str]]:
    return {
        "female": [*PRONOUNS["female"].values(), *FEMALE_NAMES],
        "male": [*PRONOUNS["male"].values(), *MALE_NAMES],
    }


def _number_words() -> dict[str, list[str]]:
    return {number: [word.form(number) for word in (*NOUNS, *VERBS)] for number in ("singular", "plural")}


def _distinct(values: Mapping[str, list[str]], shared: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """Words of exactly one value, with their sentence-initial spelling."""
    return MappingProxyType(
        {
            value: frozenset(
                spelling
                for word in words
                if word not in shared
                and not any(word in other for name, other in values.items() if name != value)
                for spelling in (word, word[0].upper() + word[1:])
            )
            for value, words in values.items()
        }
    )


ATTRIBUTE_WORDS: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "sentiment": _distinct(_sentiment_words(), frozenset()),
        "topic": _distinct(_topic_words(), frozenset()),
        "tense": _distinct(_tense_words(), _SHARED - {"did", "does", "will"}),
        "formality": _distinct(_formality_words(), _SHARED),
        "gender": _distinct(_gender_words(), frozenset()),
        "number": _distinct(_number_words(), frozenset()),
    }
)
"""Attribute -> value -> the words that express this value and no other of the same attribute."""
