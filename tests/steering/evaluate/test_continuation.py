"""Sampled continuations: the model's own distribution, paired, and counted as a reader would."""

from __future__ import annotations

import pytest
import torch

from interp.steering.evaluate.continuation import (
    WrittenWords,
    _count_legal,
    _Gumbel,
    _sample_plainly,
    sample_continuations,
)
from interp.steering.world import attributed_texts
from interp.tasks.attributes import measure_attribute
from interp.tasks.grammar import parse_text
from interp.tasks.world import EOS, token_ids, vocabulary

PROMPTS = attributed_texts(6, 21, without="tense=past", sentences=1)


def test_noise_and_the_largest_are_a_sample_of_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, 4)
    noise = _Gumbel(torch.Generator().manual_seed(0))
    drawn = noise(torch.zeros(20_000, 1, dtype=torch.long), logits).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    # four standard errors
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=4 * 0.5 / 20_000**0.5, rtol=0)


def test_the_same_seed_writes_the_same_and_torch_is_left_alone(mix):
    texts = [one.text for one in PROMPTS]
    state = torch.get_rng_state()
    first, again, other = (sample_continuations(mix, texts, 9, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (6, 9) and torch.equal(first, again) and not torch.equal(first, other)


def test_cached_is_uncached(mix):
    texts = [one.text for one in PROMPTS[:4]]
    tokens, mask = mix.to_padded_tokens(texts, padding_side="left")
    plain = _sample_plainly(mix, tokens, mask, 8, _Gumbel(torch.Generator().manual_seed(0)))
    cached = sample_continuations(mix, texts, 8, 0)
    eos = token_ids()[EOS]
    for one, other in zip(plain.tolist(), cached.tolist(), strict=True):
        stop = one.index(eos) if eos in one else len(one)
        assert one[:stop] == other[:stop]


def test_counts_are_those_of_the_words(mix):
    written = WrittenWords(mix, "tense=past", PROMPTS, n_tokens=20, seed=3)
    tokens = written.write(mix, None, 0.0)
    found = written.read(mix, None, 0.0)
    words = vocabulary()
    past = tense = kept = other = legal = complete = 0
    for row, one in zip(tokens.tolist(), PROMPTS, strict=True):
        own = [words[i] for i in row]
        assert EOS not in own or set(own[own.index(EOS) :]) == {EOS}
        counts = measure_attribute(own, "tense")
        past, tense = past + counts["past"], tense + sum(counts.values())
        for name in ("sentiment", "topic", "formality"):
            counts = measure_attribute(own, name)
            kept, other = kept + counts[one.values[name]], other + sum(counts.values())
        parts = [part for part in parse_text(own) if part.complete]
        legal += sum(part.sentence is not None for part in parts)
        complete += max(1, len(parts))
    assert found["generated"].value == pytest.approx(past / tense)
    assert found["generated retention"].value == pytest.approx(kept / other)
    assert found["legal"].value == pytest.approx(legal / complete)
    assert found["generated"].value < 0.4 and found["legal"].value > 0.7


def test_a_text_that_never_ends_a_sentence_is_not_legal():
    ids = token_ids()
    rows = [
        ["The", "baker", "was", "extremely", "good", "."],
        ["the"] * 6,
        ["good", ".", "It", ".", "a", "joy"],
    ]
    legal, complete = _count_legal(torch.tensor([[ids[word] for word in row] for row in rows]))
    assert legal.tolist() == [1, 0, 0] and complete.tolist() == [1, 1, 2]
