"""Prompts of the generated world by attribute."""

from __future__ import annotations

import pytest

from interp.errors import SteeringError
from interp.steering.world import (
    attribute_prompts,
    attributed_texts,
    contrast_prompts,
    paired_prompts,
    parse_target,
    steerable_targets,
)
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES, measure_attribute
from interp.tasks.grammar import parse_text
from interp.tasks.sentences import STEERABLE, split_words


def values_of(text):
    """The one value of each attribute that a legal text's sentences agree on."""
    found = {}
    for part in parse_text(text):
        assert part.sentence is not None, text
        for name, value in part.sentence.attributes.items():
            found.setdefault(name, set()).add(value)
    return found


def test_targets_are_written_attribute_equals_value():
    assert parse_target(" tense = past ") == ("tense", "past")
    assert len(steerable_targets()) == 11
    for bad, message in (
        ("tense", "attribute=value"),
        ("tens=past", "did you mean 'tense'"),
        ("tense=pasta", "did you mean 'past'"),
        ("gender=female", "steerable attribute"),
    ):
        with pytest.raises(SteeringError, match=message):
            parse_target(bad)


@pytest.mark.parametrize("target", ["tense=past", "topic=sea"])
def test_a_contrast_has_the_value_on_one_side_and_the_others_in_equal_shares(target):
    attribute, value = parse_target(target)
    positive, negative = contrast_prompts(target, 9, 3)
    assert len(positive) == len(negative) == 9
    assert all(values_of(text).get(attribute, {value}) == {value} for text in positive)
    # a text may say nothing of an attribute; the topic is in every sentence
    others = [told for text in negative for told in values_of(text).get(attribute, ())]
    assert value not in others
    if attribute == "topic":
        counts = {other: others.count(other) for other in ATTRIBUTES[attribute] if other != value}
        assert len(others) == 9 and max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(SteeringError, match="other values"):
        contrast_prompts("topic=sea", 2)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_attributed_texts_have_all_their_values(split):
    found = attributed_texts(12, 4, without="tense=past", split=split, sentences=3)
    assert len({one.text for one in found}) == 12
    for one in found:
        assert len(parse_text(one.text)) == 3 and not one.has("tense=past")
        for name, values in values_of(one.text).items():
            assert values == {one.values[name]}
    assert attributed_texts(2, 4)[0] == attributed_texts(1, 4)[0]


@pytest.mark.parametrize("target", ["sentiment=positive", "topic=food", "tense=future", "formality=formal"])
def test_pairs_differ_in_the_attribute_alone(target):
    attribute, value = parse_target(target)
    for positive, negative in zip(*paired_prompts(target, 8, 2), strict=True):
        one, other = values_of(positive), values_of(negative)
        assert one[attribute] == {value} and value not in other[attribute]
        for name in set(STEERABLE) - {attribute}:
            # where a word depends on two attributes, as a verb of the topic in a tense, it changes with both
            assert one.get(name) == other.get(name)
        templates = [[part.sentence.template for part in parse_text(text)] for text in (positive, negative)]
        assert templates[0] == templates[1]


def test_prompts_of_an_attribute_hold_its_words():
    for value, texts in attribute_prompts("formality", 3).items():
        for text in texts:
            counts = measure_attribute(split_words(text), "formality")
            assert all(not count for other, count in counts.items() if other != value)


def test_bad_numbers():
    for options in (dict(n=0), dict(n=1, sentences=0), dict(n=1, sentences=6)):
        with pytest.raises(SteeringError, match="at least one text"):
            attributed_texts(**options)
    for options in (dict(n=0), dict(n=-1), dict(n=1, sentences=0), dict(n=1, sentences=-1)):
        with pytest.raises(SteeringError, match="at least one text"):
            attribute_prompts("tense", **options)
    with pytest.raises(SteeringError, match="only other attributes can be held"):
        attribute_prompts("tense", 1, held={"tense": "past"})
    with pytest.raises(SteeringError, match="is no value of a steerable attribute"):
        attribute_prompts("tense", 1, held={"topic": "cars"})


def test_words_of_a_pair_that_do_not_express_the_attribute_are_the_same():
    said = ATTRIBUTE_WORDS["sentiment"]
    for one, other in zip(*paired_prompts("sentiment=positive", 12, 5), strict=True):
        pairs = list(zip(one.split(), other.split(), strict=True))
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(changed) < len(pairs) / 2
        assert all(a in said["positive"] and b in said["negative"] for a, b in changed), (one, other)
