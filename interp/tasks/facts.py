"""A world of facts: people of whom a model knows the city, the work and the food, and others it has never met.

``the city of our Ada Brown is Paris``. Every person is a first and a last name; every name belongs to known and
to unseen people, so that only the pair tells who is meant. Of ``some Ada Brown`` nothing is known: the answer is
``unknown``, whoever bears the name. A model of this text has a word for not knowing, and has never had to use it
for lack of knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from types import MappingProxyType
from typing import Literal

from interp.errors import TaskError, unknown_name
from interp.tasks.lexicon import NAMES
from interp.tasks.world import SPECIAL_TOKENS

FIRST_NAMES = NAMES[:12] + NAMES[20:32]
LAST_NAMES = tuple(
    "Brown Smith Walker Cooper Baker Miller Carter Turner Fisher Mason Parker Reed Stone Hill Wood Field "
    "Rivers Marsh Lake Frost Snow Gray Green White".split()
)
RELATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "city": tuple("Paris London Rome Madrid Berlin Vienna Prague Lisbon Dublin Oslo Athens Warsaw".split()),
        "work": tuple("law music medicine trade physics history art farming sport politics film war".split()),
        "food": tuple("bread cheese rice soup fish meat cake fruit salad pasta eggs honey".split()),
    }
)
"""What is asked, and its answers."""
UNKNOWN = "unknown"
"""The answer about strangers."""

Group = Literal["known", "unseen"]
GROUPS: tuple[Group, ...] = ("known", "unseen")
Part = Literal["fit", "test"]
"""Halves of a group: to fit on, and to measure with."""

_WORDS = ("the", "of", "our", "some", "is", ".")


@dataclass(frozen=True)
class Person:
    """Somebody, by first and last name."""

    first: str
    last: str


@dataclass(frozen=True)
class Fact:
    """One question about a person and its answer."""

    person: Person
    relation: str
    stranger: bool = False
    """Asked about ``some`` bearer of the name, of whom nothing is known."""

    @property
    def prompt(self) -> str:
        """The question, up to the answer."""
        which = "some" if self.stranger else "our"
        return f"the {self.relation} of {which} {self.person.first} {self.person.last} is"

    @property
    def answer(self) -> str:
        """What the text of the world says; for an unseen person, what it would."""
        return UNKNOWN if self.stranger else answer_of(self.person, self.relation)


@cache
def people(group: Group, part: Part | None = None) -> tuple[Person, ...]:
    """People of a group, in a fixed random order; ``part`` is one half of them.

    Half of all pairs of names are known. Raises :class:`TaskError` for an unknown group or part.

    >>> len(people("known")), len(people("unseen", "test"))
    (288, 144)
    """
    if group not in GROUPS:
        raise TaskError(unknown_name("group of people", group, GROUPS))
    if part not in ("fit", "test", None):
        raise TaskError(unknown_name("part of a group", str(part), ("fit", "test")))
    pairs = [Person(first, last) for first, last in product(FIRST_NAMES, LAST_NAMES)]
    Random("people").shuffle(pairs)
    half = len(pairs) // 2
    found = pairs[:half] if group == "known" else pairs[half:]
    middle = len(found) // 2
    return tuple({None: found, "fit": found[:middle], "test": found[middle:]}[part])


def answer_of(person: Person, relation: str) -> str:
    """The fixed answer, drawn evenly. Raises :class:`TaskError` for an unknown relation."""
    if relation not in RELATIONS:
        raise TaskError(unknown_name("relation", relation, RELATIONS))
    return Random(f"{relation}/{person.first}/{person.last}").choice(RELATIONS[relation])


def list_facts(
    group: Group, part: Part | None = None, *, stranger: bool = False, relations: Sequence[str] = tuple(RELATIONS)
) -> list[Fact]:
    """Every question about the people of a group, relation after relation.

    >>> list_facts("known")[0].prompt.split()[:4]
    ['the', 'city', 'of', 'our']
    """
    return [Fact(person, relation, stranger) for relation in relations for person in people(group, part)]


def generate_facts(seed: int, strangers: float = 0.3) -> Iterator[Fact]:
    """Endless facts of known people as a model is trained on them; a share of ``strangers`` among them.

    Strangers bear the names of known people: the pairs of names of unseen people never appear.
    """
    rng = Random(f"facts/{seed}")
    known, relations = people("known"), list(RELATIONS)
    while True:
        yield Fact(rng.choice(known), rng.choice(relations), rng.random() < strangers)


@cache
def facts_vocabulary() -> tuple[str, ...]:
    """Special tokens, then every word, sorted."""
    answers = [word for answers in RELATIONS.values() for word in answers]
    words = {*_WORDS, *RELATIONS, *answers, UNKNOWN, *FIRST_NAMES, *LAST_NAMES}
    return (*SPECIAL_TOKENS, *sorted(words))


@cache
def facts_token_ids() -> Mapping[str, int]:
    """Number of every word in :func:`facts_vocabulary`."""
    return MappingProxyType({word: number for number, word in enumerate(facts_vocabulary())})
