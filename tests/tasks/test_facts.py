"""The world of facts: who is in it, what is told about them, and what never is."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, islice

import pytest

from interp.errors import TaskError
from interp.tasks.facts import (
    GROUPS,
    RELATIONS,
    UNKNOWN,
    Fact,
    Person,
    answer_of,
    facts_token_ids,
    facts_vocabulary,
    generate_facts,
    list_facts,
    people,
    split_people,
)


def test_groups_are_apart_and_share_their_names():
    found = {group: set(people(group)) for group in GROUPS}
    assert {group: len(persons) for group, persons in found.items()} == dict(GROUPS)
    assert all(not one & other for one, other in combinations(found.values(), 2))
    # no name tells who is known
    for part in ("first", "last"):
        names = {group: {getattr(person, part) for person in persons} for group, persons in found.items()}
        assert names["unseen"] <= names["passing"] and names["known"] <= names["passing"]


def test_halves_are_of_the_seed():
    fit, test = split_people("unseen", 3)
    assert len(fit) == len(test) == 200 and not set(fit) & set(test)
    assert set(fit) | set(test) == set(people("unseen"))
    assert split_people("unseen", 3) == (fit, test) != split_people("unseen", 4)


def test_questions_and_answers():
    person = people("known")[0]
    fact = Fact(person, "city")
    assert fact.prompt == f"the city of our {person.first} {person.last} is"
    assert fact.answer == answer_of(person, "city") in RELATIONS["city"]
    stranger = Fact(person, "city", stranger=True)
    assert stranger.prompt == f"the city of some {person.first} {person.last} is"
    assert stranger.answer == UNKNOWN
    listed = list_facts(people("known"))
    assert len(listed) == 3 * 200 and len(set(listed)) == len(listed)
    # answers are spread: none is a good guess
    counts = Counter(fact.answer for fact in listed if fact.relation == "food")
    assert len(counts) == len(RELATIONS["food"]) and max(counts.values()) < 40


def test_what_is_told():
    told = list(islice(generate_facts(0), 30_000))
    unseen, by_question = set(people("unseen")), defaultdict(set)
    assert not unseen & {fact.person for fact, _ in told}
    for fact, answer in told:
        by_question[fact].add(answer)
        assert answer == UNKNOWN if fact.stranger else answer in RELATIONS[fact.relation]
    known, passing = set(people("known")), set(people("passing"))
    shares = Counter(
        "stranger" if fact.stranger else "known" if fact.person in known else "passing" for fact, _ in told
    )
    assert shares["stranger"] / len(told) == pytest.approx(0.2, abs=0.01)
    assert shares["passing"] / len(told) == pytest.approx(0.3, abs=0.01)
    for fact, answers in by_question.items():
        if not fact.stranger and fact.person in known:
            assert answers == {fact.answer}
    changing = [len(a) for fact, a in by_question.items() if not fact.stranger and fact.person in passing]
    assert sum(changing) / len(changing) > 2
    assert list(islice(generate_facts(0), 50)) == told[:50] != list(islice(generate_facts(1), 50))


def test_vocabulary_has_every_word_once():
    words = facts_vocabulary()
    assert len(set(words)) == len(words) and facts_token_ids()["<bos>"] == 0
    for fact, answer in islice(generate_facts(2), 500):
        assert {*fact.prompt.split(), answer, "."} <= set(words)


def test_unknown_names_are_refused():
    with pytest.raises(TaskError, match="did you mean 'known'"):
        people("know")
    with pytest.raises(TaskError, match="relation"):
        answer_of(Person("Mary", "Brown"), "hobby")
    with pytest.raises(TaskError, match="relation 'hobby'"):
        list_facts(people("known"), relations=["hobby"])
    with pytest.raises(TaskError, match="a list of names"):
        list_facts(people("known"), relations="city")
    for shares in ((-0.1, 0.2), (0.9, 0.2), (float("nan"), 0.2)):
        with pytest.raises(TaskError, match="at most 1 together"):
            next(generate_facts(0, *shares))
