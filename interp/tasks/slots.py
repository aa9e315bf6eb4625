"""Which words may stand in each slot of a template, and which attribute values they express there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from interp.tasks.lexicon import (
    AGREEMENT_VERBS,
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
    RELATIVE_VERBS,
    SENTIMENTS,
    START_YEARS,
    TENSES,
    TIME_WORDS,
    TOPICS,
    TWO_DIGITS,
    VERBS,
    Inflected,
    TensedVerb,
)
from interp.tasks.templates import PRONOUN_ENDINGS, Template

ANSWER = "ANSWER"
"""The slot of a task's answer."""

Values = Mapping[str, frozenset[str]]
"""Attribute -> the values that a phrase may express; more than one where it is ambiguous."""

Phrases = Mapping[str, Values]
"""The phrases of a slot, one word or several, and what each expresses."""


def texts_of(template: Template) -> tuple[str, ...]:
    """The template as whole sentences: with the answer's slot and with every ending it may have."""
    if template.task == "attributes":
        return (template.prompt,)
    ending = f"{template.prompt} {{{ANSWER}}}"
    if template.task == "agreement":
        return tuple(f"{ending}{rest}" for rest in PREDICATES)
    if template.task == "pronouns" and not template.rest:
        return tuple(f"{ending}{rest}" for rest in PRONOUN_ENDINGS)
    return (f"{ending}{template.rest}",)


def phrases_for(kind: str, slot: str) -> Phrases:
    """What may stand in a slot of a kind's templates. Raises :class:`KeyError` for one that they don't have."""
    slots = SLOTS[kind]
    return slots[slot] if slot in slots else slots[slot.rstrip("0123456789")]


def _plain(*groups: Iterable[str]) -> Phrases:
    return MappingProxyType({phrase: MappingProxyType({}) for group in groups for phrase in group})


def _gather(found: Iterable[tuple[str, str, str]]) -> Phrases:
    """From (phrase, attribute, value), all values of a phrase together."""
    gathered: dict[str, dict[str, set[str]]] = {}
    for phrase, attribute, value in found:
        gathered.setdefault(phrase, {}).setdefault(attribute, set()).add(value)
    return MappingProxyType(
        {
            phrase: MappingProxyType({name: frozenset(values) for name, values in by.items()})
            for phrase, by in gathered.items()
        }
    )


def _tensed(verbs: Mapping[str, Iterable[TensedVerb]], attribute: str) -> Phrases:
    """Forms of each value's verbs in all tenses."""
    return _gather(
        item
        for value, group in verbs.items()
        for verb in group
        for tense in TENSES
        for item in ((verb.form(tense), attribute, value), (verb.form(tense), "tense", tense))
    )


def _expressing(words: Mapping[str, Iterable[str]], attribute: str) -> Phrases:
    return _gather((word, attribute, value) for value, group in words.items() for word in group)


def _numbered(words: Iterable[Inflected]) -> Phrases:
    return _gather(
        (word.form(number), "number", number) for word in words for number in ("singular", "plural")
    )


_NEGATIONS = _gather(
    item
    for value, register in REGISTERS.items()
    for tense, phrase in register.negations.items()
    for item in ((phrase, "formality", value), (phrase, "tense", tense))
)

PREDICATES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        ".": frozenset(form for verb in AGREEMENT_VERBS for form in (verb.singular, verb.plural)),
        " happy.": frozenset(form for verb in VERBS[:2] for form in (verb.singular, verb.plural)),
        " a {OBJECT}.": frozenset((VERBS[2].singular, VERBS[2].plural)),
    }
)
"""How an agreement sentence ends -> the verbs that may stand before that."""

SLOTS: Mapping[str, Mapping[str, Phrases]] = MappingProxyType(
    {
        "ioi": {
            **dict.fromkeys(("FIRST", "SECOND", "S2", ANSWER), _plain(NAMES)),
            "PLACE": _plain(PLACES),
            "OBJECT": _plain(OBJECTS),
        },
        "greater_than": {
            "NOUN": _plain(DURATIONS),
            "XX": _plain(CENTURIES),
            "YY": _plain(START_YEARS),
            ANSWER: _plain(TWO_DIGITS),
        },
        "pronouns": {
            "NAME": _plain(NAMES),
            "PLACE": _plain(PLACES),
            "OBJECT": _plain(OBJECTS),
            ANSWER: _expressing({gender: [forms["subject"]] for gender, forms in PRONOUNS.items()}, "gender"),
        },
        "agreement": {
            "SUBJECT": _numbered(NOUNS),
            "ATTRACTOR": _plain(_numbered(NOUNS)),
            "RELATIVE": _plain(_numbered(RELATIVE_VERBS)),
            "RELATIVE_S": _numbered(RELATIVE_VERBS),
            "PLACE": _plain(PLACES),
            "OBJECT": _plain(OBJECTS),
            ANSWER: _numbered((*AGREEMENT_VERBS, *VERBS[:3])),
        },
        "colored_objects": {
            **dict.fromkeys(("ITEM", "ASKED"), _plain(ITEMS)),
            **dict.fromkeys(("COLOR", ANSWER), _plain(COLORS)),
        },
        "docstring": {
            **dict.fromkeys(("FUNCTION", "ARG", "DOC", ANSWER), _plain(ARGUMENTS)),
            "WORD": _plain(OBJECTS, PLACES, ITEMS),
        },
        "attributes": {
            "OPENER": _expressing({v: one.openers for v, one in REGISTERS.items()}, "formality"),
            "INTENSIFIER": _expressing({v: one.intensifiers for v, one in REGISTERS.items()}, "formality"),
            "PEOPLE": _expressing({v: one.people for v, one in REGISTERS.items()}, "formality"),
            "NOT": _NEGATIONS,
            "BELIEVE": _tensed({v: one.beliefs for v, one in REGISTERS.items()}, "formality"),
            "ADJECTIVE": _expressing({v: one.adjectives for v, one in SENTIMENTS.items()}, "sentiment"),
            "ADVERB": _expressing({v: one.adverbs for v, one in SENTIMENTS.items()}, "sentiment"),
            "NOUN": _expressing({v: one.nouns for v, one in SENTIMENTS.items()}, "sentiment"),
            "REACT": _tensed({v: one.reactions for v, one in SENTIMENTS.items()}, "sentiment"),
            "AGENT": _expressing({v: one.agents for v, one in TOPICS.items()}, "topic"),
            "OBJECT": _expressing({v: one.objects for v, one in TOPICS.items()}, "topic"),
            "PLACE": _expressing({v: one.places for v, one in TOPICS.items()}, "topic"),
            "VERB": _tensed({v: one.verbs for v, one in TOPICS.items()}, "topic"),
            "BASE": _expressing({v: [x.base for x in one.verbs] for v, one in TOPICS.items()}, "topic"),
            "BE": _expressing({tense: [form] for tense, form in BE.items()}, "tense"),
            "TIME": _expressing(TIME_WORDS, "tense"),
        },
    }
)
"""Kind of sentence -> slot -> what may stand there. Slots with numbers (``ITEM2``) share their words."""
