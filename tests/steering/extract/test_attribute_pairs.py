"""Minimal pairs: one attribute differs, and methods of pairs find it."""

from __future__ import annotations

import pytest

from interp.errors import SteeringError
from interp.steering.contrast import read_contrast
from interp.steering.extract import attribute_pairs
from interp.steering.extract.compare import compare_directions
from interp.steering.world import attribute_prompts
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES


@pytest.mark.parametrize("attribute", ["sentiment", "topic", "tense", "formality"])
def test_sides_have_their_value_and_not_the_other(attribute):
    positive, negative = ATTRIBUTES[attribute][:2]
    sides = attribute_pairs(attribute, positive, negative, 30, sentences=3)
    assert [len(side) for side in sides] == [30, 30]
    assert sides == attribute_pairs(attribute, positive, negative, 30, sentences=3)
    assert sides != attribute_pairs(attribute, positive, negative, 30, seed=1, sentences=3)
    for value, other, side in ((positive, negative, sides[0]), (negative, positive, sides[1])):
        own, wrong = (set(ATTRIBUTE_WORDS[attribute][v]) for v in (value, other))
        words = [set(text.split()) for text in side]
        assert sum(bool(one & (own - wrong)) for one in words) > 0.9 * len(words)
        assert not any(one & (wrong - own) for one in words)
    # pairs share what does not express the attribute
    shared = [len(set(a.split()) & set(b.split())) / len(set(a.split())) for a, b in zip(*sides, strict=True)]
    apart = [
        len(set(a.split()) & set(b.split())) / len(set(a.split()))
        for a, b in zip(sides[0], sides[1][1:], strict=False)
    ]
    assert sum(shared) / len(shared) > sum(apart) / len(apart) + 0.15


def test_with_minimal_pairs_uncentred_components_find_the_attribute_and_the_centred_one_less(mix):
    methods = ("mean-difference", "pca", "centred-pca", "lat")

    def found(sides):
        contrast = read_contrast(mix, *sides, "resid_post[1]", paired=True)
        return compare_directions(contrast, methods=methods, n_bootstrap=2)

    pairs = found(attribute_pairs("tense", "past", "future", 64))
    for method in ("pca", "lat"):
        assert pairs.cosine(method, "mean-difference") > 0.95
        assert pairs.auc_of(method).value > 0.95
    assert pairs.cosine("centred-pca", "mean-difference") < 0.8
    prompts = attribute_prompts("tense", 64)
    unmatched = found((prompts["past"], prompts["future"]))
    assert unmatched.cosine("pca", "mean-difference") < pairs.cosine("pca", "mean-difference") - 0.1


def test_bad_requests():
    for options, message in (
        (("mood", "a", "b", 3), "unknown steerable attribute"),
        (("tense", "past", "futur", 3), "did you mean 'future'"),
        (("tense", "past", "past", 3), "pairs take two values"),
        (("tense", "past", "future", 0), "n=0"),
    ):
        with pytest.raises(SteeringError, match=message):
            attribute_pairs(*options)
