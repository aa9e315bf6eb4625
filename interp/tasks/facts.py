"""A world of facts: people of whom a model knows the city, the work and the food, and others of whom it does not.

``the city of our Ada Brown is Paris``. Every person is a first and a last name; every name belongs to people of
all groups, so that only the pair tells who is meant. *Known* people have one answer to every question. Of people
*passing* by, another answer is heard every time: there is nothing to know, and yet an answer. *Unseen* people
never appear. Of ``some Ada Brown``, a stranger, the answer is ``unknown``, whoever bears the name.

A model of this text knows whom it knows, has a word for not knowing, and makes answers up all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from types import MappingProxyType
from typing import Literal

from interp.errors import TaskError, unknown_name
from interp.tasks.lexicon import NAMES
from interp.tasks.world import SPECIAL_TOKENS

FIRST_NAMES = NAMES
LAST_NAMES = tuple(
    "Brown Smith Walker Cooper Baker Miller Carter Turner Fisher Mason Parker Reed Stone Hill Wood Field "
    "Rivers Marsh Lake Frost Snow Gray Green White Adams Bell Clark Davis Ellis Ford Grant Hayes Irwin Jones "
    "King Lewis Moore Nash Owen Price".split()
)
RELATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "city": tuple(
            "Paris London Rome Madrid Berlin Vienna Prague Lisbon Dublin Oslo Athens Warsaw".split()
        ),
        "work": tuple("law music medicine trade physics history art farming sport politics film war".split()),
        "food": tuple("bread cheese rice soup fish meat cake fruit salad pasta eggs honey".split()),
    }
)
"""What is asked, and its answers."""
UNKNOWN = "unknown"
"""The answer about strangers."""

Group = Literal["known", "passing", "unseen"]
GROUPS: Mapping[Group, int] = MappingProxyType({"known": 200, "passing": 1000, "unseen": 400})
"""How many people there are of each."""

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
def people(group: Group) -> tuple[Person, ...]:
    """People of a group, in a fixed random order. Raises :class:`TaskError` for an unknown group.

    >>> len(people("known"))
    200
    """
    if group not in GROUPS:
        raise TaskError(unknown_name("group of people", group, tuple(GROUPS)))
    pairs = [Person(first, last) for first, last in product(FIRST_NAMES, LAST_NAMES)]
    Random("people").shuffle(pairs)
    start = 0
    for name, n in GROUPS.items():
        if name == group:
            break
        start += n
    return tuple(pairs[start : start + GROUPS[group]])


def split_people(group: Group, seed: int) -> tuple[tuple[Person, ...], tuple[Person, ...]]:
    """Two random halves of a group: to fit on, and to measure with."""
    found = list(people(group))
    Random(f"split/{group}/{seed}").shuffle(found)
    return tuple(found[: len(found) // 2]), tuple(found[len(found) // 2 :])


def answer_of(person: Person, relation: str) -> str:
    """The fixed answer, drawn evenly; only of known people is it ever told.

    Raises :class:`TaskError` for an unknown relation.
    """
    if relation not in RELATIONS:
        raise TaskError(unknown_name("relation", relation, RELATIONS))
    return Random(f"{relation}/{person.first}/{person.last}").choice(RELATIONS[relation])


def list_facts(
    asked: Iterable[Person], *, stranger: bool = False, relations: Sequence[str] = tuple(RELATIONS)
) -> list[Fact]:
    """Every question about people, relation after relation. Raises :class:`TaskError` for an unknown relation.

    >>> list_facts(people("known"))[0].prompt.split()[:4]
    ['the', 'city', 'of', 'our']
    """
    if isinstance(relations, str):
        raise TaskError(f"relations are a list of names; got the text {relations!r}.")
    for relation in relations:
        if relation not in RELATIONS:
            raise TaskError(unknown_name("relation", relation, RELATIONS))
    persons = tuple(asked)
    return [Fact(person, relation, stranger) for relation in relations for person in persons]


def generate_facts(seed: int, passing: float = 0.3, strangers: float = 0.2) -> Iterator[tuple[Fact, str]]:
    """Endless facts and the answers told, as a model is trained on them.

    A share is of ``passing`` people, with an answer drawn anew every time, and a share of ``strangers`` with the names
    of known or passing people; the rest is of known people. Pairs of names of unseen people never appear.
    Raises :class:`TaskError` at the first fact for shares below 0 or above 1 together.
    """
    if not (passing >= 0 and strangers >= 0 and passing + strangers <= 1):
        raise TaskError(f"shares are 0 or more and at most 1 together; got {passing} and {strangers}.")
    rng = Random(f"facts/{seed}")
    relations = list(RELATIONS)
    while True:
        draw = rng.random()
        relation = rng.choice(relations)
        if draw < strangers:
            fact = Fact(rng.choice(people(rng.choice(("known", "passing")))), relation, stranger=True)
            yield fact, fact.answer
        elif draw < strangers + passing:
            yield Fact(rng.choice(people("passing")), relation), rng.choice(RELATIONS[relation])
        else:
            fact = Fact(rng.choice(people("known")), relation)
            yield fact, fact.answer


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
