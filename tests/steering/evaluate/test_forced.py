"""Shares of words that a model expects, against a loop over positions."""

from __future__ import annotations

import pytest
import torch

from interp.errors import SteeringError
from interp.steering.evaluate.forced import THRESHOLD, ConceptWords, ExpectedWords
from interp.steering.world import attribute_token_ids, attributed_texts
from interp.tasks.sentences import STEERABLE

TEXTS = attributed_texts(5, 11, without="sentiment=positive")


def naive(model, attribute, value, texts, steered=None):
    """Sum of shares, of masses and of positions that count, of each text."""
    ids = attribute_token_ids(model, attribute)
    every = torch.cat(list(ids.values()))
    rows = []
    for one in texts:
        tokens = model.to_tokens(one.text)
        with torch.no_grad():
            before = model(tokens)[0].softmax(-1)
            if steered is None:
                now = before
            else:
                with steered.apply(model, strength=4.0):
                    now = model(tokens)[0].softmax(-1)
        share = mass = count = 0.0
        for old, new in zip(before, now, strict=True):
            if float(old[every].sum()) >= THRESHOLD:
                share += float(new[ids[value]].sum() / new[every].sum())
                mass += float(new[every].sum())
                count += 1
        rows.append((share, mass, count))
    return torch.tensor(rows)


@pytest.mark.parametrize("is_steered", [False, True])
def test_sums_are_those_of_a_loop(mix, happy, is_steered):
    words = ExpectedWords(mix, TEXTS, batch_size=2)
    steering = happy if is_steered else None
    found = words.read(mix, steering, 4.0)
    for attribute, value in (("sentiment", "positive"), ("topic", "sea"), ("formality", "informal")):
        wanted = naive(mix, attribute, value, TEXTS, steering)
        at, own = words.values.index((attribute, value)), STEERABLE.index(attribute)
        got = torch.stack([found.share[:, at], found.mass[:, own], found.count[:, own]], dim=1)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_shares_of_an_attribute_sum_to_1(mix):
    words = ExpectedWords(mix, TEXTS)
    found = words.read(mix)
    for number, attribute in enumerate(STEERABLE):
        own = [i for i, (name, _) in enumerate(words.values) if name == attribute]
        torch.testing.assert_close(found.share[:, own].sum(1), found.count[:, number], rtol=1e-4, atol=1e-4)


def test_a_steering_towards_the_concept_raises_it_and_the_other_way_lowers_it(mix, happy):
    words = ConceptWords(mix, "sentiment=positive", TEXTS)
    base, up, down = (
        words.read(mix, s, k)["concept"].value for s, k in ((None, 0.0), (happy, 6.0), (happy, -4.0))
    )
    assert up > base + 0.3 > base > down
    assert words.read(mix, happy, 0.0)["concept"].value == pytest.approx(base, abs=1e-6)


def test_retention_is_of_the_texts_own_values(mix):
    found = ConceptWords(mix, "sentiment=positive", TEXTS).read(mix, None, 0.0)
    share = count = 0.0
    for attribute in ("topic", "tense", "formality"):
        for one in TEXTS:
            (row,) = naive(mix, attribute, one.values[attribute], [one]).tolist()
            share, count = share + row[0], count + row[2]
    assert found["retention"].value == pytest.approx(share / count, rel=1e-3)
    assert found["retention"].value > 0.6


def test_other_vocabularies_are_refused(tiny):
    with pytest.raises(SteeringError, match="does not read the generated world"):
        ExpectedWords(tiny, TEXTS)
