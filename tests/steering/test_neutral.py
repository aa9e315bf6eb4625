"""Neutral text: whole rows, cut and counted, told apart by a digest."""

from __future__ import annotations

import pytest
import torch
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.steering.neutral import NeutralText, read_neutral, reads_world


@pytest.fixture(scope="module")
def mix():
    return interp.load_model("mix-4l")


@pytest.fixture(scope="module")
def other(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"), tokenizer=make_tokenizer())


def rows(*lengths: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.arange(n) for n in lengths)


def test_batches_hold_every_row_once_and_one_length_each():
    text = NeutralText(rows(3, 5, 3, 3, 2, 5), "counting")
    seen = []
    for numbers, tokens in text.batches(2):
        assert len(numbers) == len(tokens) <= 2
        for number, row in zip(numbers.tolist(), tokens, strict=True):
            assert torch.equal(row, text.rows[number])
            seen.append(number)
    assert sorted(seen) == list(range(6))


def test_the_digest_is_of_the_tokens_row_by_row():
    one = NeutralText(rows(3, 4), "a")
    assert one.digest == NeutralText(rows(3, 4), "b").digest
    others = [
        rows(4, 3),
        rows(3, 5),
        (torch.arange(7), torch.arange(2)),
        (torch.arange(1, 4), torch.arange(4)),
    ]
    assert len({one.digest, *(NeutralText(r, "a").digest for r in others)}) == 5
    assert one.describe() == f"a (2 rows, 7 tokens, {one.digest})"


def test_text_of_the_world_is_for_models_that_read_it(mix, other):
    assert reads_world(mix)
    assert not reads_world(other)
    text = read_neutral(mix, n=3, length=10, seed=4)
    assert [len(row) for row in text.rows] == [10, 10, 10]
    assert text.digest == read_neutral(mix, n=3, length=10, seed=4).digest
    assert text.digest != read_neutral(mix, n=3, length=10, seed=5).digest
    assert len(read_neutral(mix, n=1, length=10_000).rows[0]) == mix.traits.n_ctx
    with pytest.raises(SteeringError, match="give neutral text of its own"):
        read_neutral(other)


def test_given_text_is_cut_and_its_first_rows_taken(other):
    texts = [f"w{2 + i} " * (i + 2) for i in range(6)]
    found = read_neutral(other, texts, n=3, length=3)
    assert [row.tolist() for row in found.rows] == [[0, 2, 2], [0, 3, 3], [0, 4, 4]]
    assert read_neutral(other, found) is found
    tokens = torch.arange(12).reshape(2, 6)
    assert torch.equal(torch.stack(read_neutral(other, tokens).rows), tokens)
    assert read_neutral(other, texts, name="mine").describe().startswith("mine (6 rows")


def test_rows_without_a_next_token_are_none(other):
    with pytest.raises(SteeringError, match=r"at least two tokens; got 2 rows, too short \[1\]"):
        NeutralText(rows(3, 1), "x")
    with pytest.raises(SteeringError, match="got 0 rows"):
        NeutralText((), "x")
    assert len(read_neutral(other, [torch.arange(4), torch.arange(1)]).rows) == 1
