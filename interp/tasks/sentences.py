"""Random sentences of every kind, with the latent facts behind each word."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from types import MappingProxyType

from interp.tasks.attributes import ATTRIBUTES
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
    TIME_WORDS,
    TOPICS,
    TWO_DIGITS,
    VERBS,
    gender_of,
    is_heldout_pair,
)
from interp.tasks.templates import PRONOUN_ENDINGS, Order, Split, Template, order_names, templates_for

WORD_PATTERN = r"[A-Za-z]+(?:'[a-z]+)?|[0-9]{2}|\"\"\"|[^\sA-Za-z]"
"""One word of the world: letters with a contraction, two digits, or one sign."""

_WORD = re.compile(WORD_PATTERN)
_SLOT = re.compile(r"\{(\w+)\}")

NUMBERS = ATTRIBUTES["number"]


def split_words(text: str) -> list[str]:
    """Words of ``text``, as the world's tokenizer splits them.

    >>> split_words("The war isn't over in 1732.")
    ['The', 'war', "isn't", 'over', 'in', '17', '32', '.']
    """
    return _WORD.findall(text)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One generated sentence, word by word."""

    kind: str
    template: str
    words: tuple[str, ...]
    roles: tuple[str, ...]
    """Of each word: ``IO``, ``S1``, ``SUBJECT``, ``ANSWER`` ...; ``""`` for words of the template."""
    attributes: Mapping[str, str]
    """Latent attribute -> value, for those that this kind of sentence has."""
    answer: int | None = None
    """Index of the word that the task asks for; ``None`` where nothing is asked."""
    wrong: tuple[str, ...] = ()
    """Words that would be wrong in place of the answer."""
    also_right: tuple[str, ...] = ()
    """Other words that would be right in place of the answer."""

    @property
    def prompt(self) -> tuple[str, ...]:
        """Words before the answer. The whole sentence where nothing is asked."""
        return self.words[: self.answer]


@cache
def template_parts(text: str) -> tuple[tuple[bool, str], ...]:
    """Words and slots of a template in order: (is a slot, word or slot name)."""
    parts: list[tuple[bool, str]] = []
    done = 0
    for match in _SLOT.finditer(text):
        parts += [(False, word) for word in split_words(text[done : match.start()])]
        parts.append((True, match[1]))
        done = match.end()
    parts += [(False, word) for word in split_words(text[done:])]
    return tuple(parts)


def _fill(text: str, fills: Mapping[str, str], names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Words and roles of a filled template; ``names`` renames slots to roles."""
    words: list[str] = []
    roles: list[str] = []
    for is_slot, item in template_parts(text):
        filled = fills[item].split() if is_slot else [item]
        words += filled
        roles += [names.get(item, item) if is_slot else ""] * len(filled)
    return words, roles


def _ask(
    template: Template,
    fills: Mapping[str, str],
    answer: str,
    *,
    wrong: Sequence[str],
    also_right: Sequence[str] = (),
    rest: str | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    attributes: Mapping[str, str] = MappingProxyType({}),
) -> Sentence:
    words, roles = _fill(template.prompt, fills, names)
    tail, tail_roles = _fill(template.rest if rest is None else rest, fills, names)
    return Sentence(
        kind=template.task,
        template=template.id,
        words=(*words, answer, *tail),
        roles=(*roles, "ANSWER", *tail_roles),
        attributes=attributes,
        answer=len(words),
        wrong=tuple(wrong),
        also_right=tuple(also_right),
    )


_ORDERS: tuple[Order, ...] = ("ABBA", "BABA")


def _draw_ioi(rng: Random, template: Template) -> Sentence:
    while True:
        io, subject = rng.sample(NAMES, 2)
        if is_heldout_pair(io, subject) == template.heldout:
            break
    order: Order = rng.choice(_ORDERS)
    fills = order_names(io, subject, order)
    first, second = ("IO", "S1") if order == "ABBA" else ("S1", "IO")
    fills |= {"PLACE": rng.choice(PLACES), "OBJECT": rng.choice(OBJECTS)}
    return _ask(template, fills, io, wrong=(subject,), names={"FIRST": first, "SECOND": second})


def _draw_greater_than(rng: Random, template: Template) -> Sentence:
    century = rng.choice(CENTURIES)
    start = rng.choice(START_YEARS)
    split = TWO_DIGITS.index(start) + 1
    end = rng.choice(TWO_DIGITS[split:])
    fills = {"NOUN": rng.choice(DURATIONS), "XX": century, "YY": start, "XX2": century}
    later = tuple(year for year in TWO_DIGITS[split:] if year != end)
    return _ask(template, fills, end, wrong=TWO_DIGITS[:split], also_right=later)


def _draw_pronoun(rng: Random, template: Template) -> Sentence:
    name = rng.choice(NAMES)
    gender = gender_of(name)
    other = "male" if gender == "female" else "female"
    fills = {"NAME": name, "PLACE": rng.choice(PLACES), "OBJECT": rng.choice(OBJECTS)}
    return _ask(
        template,
        fills,
        PRONOUNS[gender]["subject"],
        wrong=(PRONOUNS[other]["subject"],),
        rest=template.rest or rng.choice(PRONOUN_ENDINGS),
        attributes={"gender": gender},
    )


def _draw_agreement(rng: Random, template: Template) -> Sentence:
    subject, attractor = rng.sample(NOUNS, 2)
    number, other = rng.choice(NUMBERS), rng.choice(NUMBERS)
    opposite = NUMBERS[1 - NUMBERS.index(number)]
    relative = rng.choice(RELATIVE_VERBS)
    fills = {
        "SUBJECT": subject.form(number),
        "ATTRACTOR": attractor.form(other),
        "RELATIVE": relative.form(other),
        "RELATIVE_S": relative.form(number),
        "PLACE": rng.choice(PLACES),
        "OBJECT": rng.choice(OBJECTS),
    }
    verb, rest = rng.choice(_PREDICATES)
    return _ask(
        template,
        fills,
        verb.form(number),
        wrong=(verb.form(opposite),),
        rest=rest,
        attributes={"number": number},
    )


_PREDICATES = tuple((verb, ".") for verb in AGREEMENT_VERBS) + tuple(
    (verb, rest)
    for verb, rest in zip(VERBS[:3], (" happy.", " happy.", " a {OBJECT}."), strict=True)
    for _ in range(3)
)


def _draw_colored_objects(rng: Random, template: Template) -> Sentence:
    items, colors = rng.sample(ITEMS, 3), rng.sample(COLORS, 3)
    asked, *others = rng.sample(range(3), 3)
    fills = {f"ITEM{i + 1}": item for i, item in enumerate(items)} | {"ASKED": items[asked]}
    fills |= {f"COLOR{i + 1}": color for i, color in enumerate(colors)}
    return _ask(template, fills, colors[asked], wrong=[colors[which] for which in others])


def _draw_docstring(rng: Random, template: Template) -> Sentence:
    function, *names = rng.sample(ARGUMENTS, 5)
    words = rng.sample(OBJECTS + PLACES + ITEMS, 6)
    fills = {f"ARG{i + 1}": name for i, name in enumerate(names)} | {"FUNCTION": function}
    fills |= {f"WORD{i + 1}": word for i, word in enumerate(words)} | {"DOC1": names[0], "DOC2": names[1]}
    return _ask(template, fills, names[2], wrong=(names[0], names[1], names[3]))


DRAW: Mapping[str, Callable[[Random, Template], Sentence]] = MappingProxyType(
    {
        "ioi": _draw_ioi,
        "greater_than": _draw_greater_than,
        "pronouns": _draw_pronoun,
        "agreement": _draw_agreement,
        "colored_objects": _draw_colored_objects,
        "docstring": _draw_docstring,
    }
)
"""Kinds of sentence that ask for one answer, and how one is drawn from a template."""

STEERABLE = ("sentiment", "topic", "tense", "formality")
"""Attributes that the ``attributes`` documents hold over several sentences."""


def draw_attributes(rng: Random) -> dict[str, str]:
    """One random value for every steerable attribute."""
    return {name: rng.choice(ATTRIBUTES[name]) for name in STEERABLE}


def draw_attribute_sentence(rng: Random, template: Template, attributes: Mapping[str, str]) -> Sentence:
    """A sentence whose open slots all express ``attributes``."""
    tense = attributes["tense"]
    topic = TOPICS[attributes["topic"]]
    sentiment = SENTIMENTS[attributes["sentiment"]]
    register = REGISTERS[attributes["formality"]]
    verb = rng.choice(topic.verbs)
    fills = {
        "OPENER": rng.choice(register.openers),
        "ADJECTIVE": rng.choice(sentiment.adjectives),
        "ADVERB": rng.choice(sentiment.adverbs),
        "NOUN": rng.choice(sentiment.nouns),
        "REACT": rng.choice(sentiment.reactions).form(tense),
        "AGENT": rng.choice(topic.agents),
        "OBJECT": rng.choice(topic.objects),
        "PLACE": rng.choice(topic.places),
        "VERB": verb.form(tense),
        "BASE": verb.base,
        "BE": BE[tense],
        "TIME": rng.choice(TIME_WORDS[tense]),
        "NOT": register.negations[tense],
        "INTENSIFIER": rng.choice(register.intensifiers),
        "PEOPLE": rng.choice(register.people),
        "BELIEVE": rng.choice(register.beliefs).form(tense),
    }
    words, roles = _fill(template.prompt, fills, {})
    words[0] = words[0][0].upper() + words[0][1:]
    return Sentence("attributes", template.id, tuple(words), tuple(roles), dict(attributes))


def draw_repeated(rng: Random, words: Sequence[str]) -> Sentence:
    """Distinct random words, repeated two or three times in the same order."""
    length, times = rng.randint(4, 20), rng.choice((2, 2, 3))
    drawn = tuple(rng.sample(words, length))
    roles = ("FIRST",) * length + ("REPEAT",) * length * (times - 1)
    return Sentence("induction", f"induction/repeat-{times}", drawn * times, roles, {})


def draw_template(rng: Random, kind: str, split: Split) -> Template:
    """A random template of this kind in this split."""
    return rng.choice(templates_for(kind, split))
