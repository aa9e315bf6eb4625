"""Minimal pairs: one attribute differs, and methods of pairs find it."""

from __future__ import annotations

import pytest

from interp.errors import SteeringError
from interp.steering.contrast import read_contrast
from interp.steering.extract.compare import compare_directions
from interp.steering.world import attribute_prompts, paired_prompts
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES


@pytest.mark.parametrize("attribute", ["sentiment", "topic", "tense", "formality"])
def test_sides_have_their_value_and_not_the_other(attribute):
    positive, negative = ATTRIBUTES[attribute][:2]
    target, options = f"{attribute}={positive}", {"against": negative, "sentences": 3}
    sides = paired_prompts(target, 30, **options)
    assert [len(side) for side in sides] == [30, 30]
    assert sides == paired_prompts(target, 30, **options)
    assert sides != paired_prompts(target, 30, 1, **options)
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

    pairs = found(paired_prompts("tense=past", 64, against="future"))
    for method in ("pca", "lat"):
        assert pairs.cosine(method, "mean-difference") > 0.95
        assert pairs.auc_of(method).value > 0.95
    assert pairs.cosine("centred-pca", "mean-difference") < 0.8
    prompts = attribute_prompts("tense", 64)
    unmatched = found((prompts["past"], prompts["future"]))
    assert unmatched.cosine("pca", "mean-difference") < pairs.cosine("pca", "mean-difference") - 0.1


def test_bad_requests():
    for target, n, against, message in (
        ("mood=a", 3, "b", "unknown steerable attribute"),
        ("tense=past", 3, "futur", "did you mean 'future'"),
        ("tense=past", 3, "past", "unknown other value of tense"),
        ("tense=past", 0, "future", "n=0"),
    ):
        with pytest.raises(SteeringError, match=message):
            paired_prompts(target, n, against=against)
