"""Rules for positions: text patterns against a loop over prefixes, ends of instructions, under caches and padding."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.models.positions import Columns, Prompt
from interp.steering.operations import Add
from interp.steering.places import InstructionEnd, TextPattern, read_where
from interp.steering.steering import steer_with


class Words:
    """As much of a model as a rule asks: the text of a token, and no beams."""

    beams = 1

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def to_str_tokens(self, tokens: torch.Tensor) -> list[str]:
        return [self.words[token] for token in tokens.tolist()]


MODEL = Words((" the", " store", " a", "st", "ore", "", "\n", "."))


def choose(where, tokens, offsets=None, lengths=None, start: int = 0, prompt: int | None = None):
    """As in one forward from column ``start`` on."""
    tokens = torch.tensor(tokens)
    n = tokens.shape[1]
    prompt = n if prompt is None else prompt
    offsets = torch.zeros(len(tokens), dtype=torch.long) if offsets is None else torch.tensor(offsets)
    lengths = prompt - offsets if lengths is None else torch.tensor(lengths)
    columns = Columns(Prompt(prompt, offsets, lengths), start, n - start)
    return where.select(MODEL, tokens, columns).long().tolist()


def test_a_match_over_several_tokens_is_chosen_from_where_it_is_complete():
    row = [[0, 3, 4, 7, 1]]
    assert choose(TextPattern("store"), row) == [[0, 0, 1, 0, 1]]
    assert choose(TextPattern("store", "after"), row) == [[0, 0, 0, 1, 1]]
    # an open end is reached by every token that extends the match
    assert choose(TextPattern(r"st\w*"), row) == [[0, 1, 1, 0, 1]]
    assert choose(TextPattern("the.*"), [[0, 3, 6, 7]]) == [[1, 1, 0, 0]]
    assert choose(TextPattern("(?s)the.*"), [[0, 3, 6, 7]]) == [[1, 1, 1, 1]]


def test_nothing_before_the_first_match_and_no_empty_one():
    assert choose(TextPattern("zzz"), [[0, 1]]) == [[0, 0]]
    assert choose(TextPattern("zzz", "after"), [[0, 1]]) == [[0, 0]]
    # an empty token is no part of a match, and an empty match is none
    assert choose(TextPattern("store"), [[1, 5, 0]]) == [[1, 0, 0]]
    assert choose(TextPattern(r"\b"), [[0, 1, 7]]) == [[0, 0, 0]]


def test_padding_is_not_read():
    assert choose(TextPattern("the"), [[0, 0, 0, 1], [0, 0, 2, 2]], offsets=[0, 2]) == [[1, 1, 1, 0], [0] * 4]
    # of a prompt padded on the right, generated tokens go on from its own end
    found = choose(TextPattern("store"), [[3, 0, 4], [3, 4, 0]], lengths=[1, 2], prompt=2)
    assert found == [[0, 0, 1], [0, 1, 0]]


@settings(max_examples=60)
@given(
    tokens=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    pattern=st.sampled_from(["store", "st", r"\.", "(?:the|a)", r"t\w+", "(?s)e.*a", "o(?=r)", r"\s"]),
    part=st.sampled_from(["match", "after"]),
    start=st.integers(0, 8),
)
def test_it_is_a_loop_over_prefixes_wherever_the_cache_ends(tokens, pattern, part, start):
    """Every forward of a cached run chooses as the uncached one, and as prefixes say."""
    words, reached = [MODEL.words[token] for token in tokens], []
    for i, word in enumerate(words):
        before, text = "".join(words[:i]), "".join(words[: i + 1])
        found = [m for m in re.finditer(pattern, text) if m.end() > len(before) and m.group()]
        reached.append(bool(found) and bool(word))
    expected = reached
    if part == "after":
        expected = [any(reached[:i]) for i in range(len(words))]
    start = min(start, len(tokens) - 1)
    where = TextPattern(pattern, part)
    assert choose(where, [tokens]) == [[int(x) for x in expected]]
    assert choose(where, [tokens], start=start, prompt=1) == [[int(x) for x in expected[start:]]]


def test_the_end_of_an_instruction_is_before_the_last_template():
    where = InstructionEnd((6, 7))
    assert choose(where, [[0, 1, 6, 7, 2]]) == [[0, 1, 0, 0, 0]]
    assert choose(where, [[0, 6, 7, 1, 6, 7]]) == [[0, 0, 0, 1, 0, 0]]
    assert choose(where, [[5, 5, 0, 6, 7], [0, 1, 2, 6, 7]], offsets=[2, 0]) == [
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
    ]
    # what was generated is no part of the prompt, and is never chosen
    assert choose(where, [[0, 6, 7, 1, 6, 7]], prompt=3) == [[1, 0, 0, 0, 0, 0]]
    assert choose(where, [[0, 6, 7, 1]], prompt=3, start=3) == [[0]]


@pytest.mark.parametrize("row", [[0, 1, 2], [6, 7, 0], [0, 6, 1, 7]])
def test_a_prompt_without_the_template_is_an_error(row):
    with pytest.raises(SteeringError, match=r"row 1: the template \[6, 7\] does not stand behind"):
        choose(InstructionEnd((6, 7)), [[0, 6, 7, 5][: len(row)], row])


def test_the_template_may_be_given_as_text(make_hf_model):
    model = interp.load_model(make_hf_model("gpt2"), tokenizer=make_tokenizer())
    assert InstructionEnd.of_text(model, "w7 w8") == InstructionEnd((7, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextPattern("("), "no regular expression"),
        (lambda: TextPattern("a*"), "matches nothing at all, which is everywhere"),
        (lambda: TextPattern("a", "befor"), "part of a match"),
        (lambda: InstructionEnd(()), "has no token"),
        (lambda: read_where({"kind": "moon"}), "rule for positions"),
        (lambda: read_where({}), "rule for positions"),
    ],
    ids=range(6),
)
def test_rules_that_cannot_be(make, message: str):
    with pytest.raises(SteeringError, match=message):
        make()


def test_rules_come_back_from_dicts():
    for where in (TextPattern("a.b", "after"), TextPattern("x"), InstructionEnd((4, 2))):
        assert read_where(where.to_dict()) == where


def test_a_rule_that_chose_nothing_warns(make_hf_model):
    model = interp.load_model(make_hf_model("gpt2"), tokenizer=make_tokenizer())
    steering = steer_with({"resid_post[0]": Add(torch.ones(36))}).narrowed(TextPattern("w99"))
    tokens = torch.tensor([[2, 3, 4]])
    with (
        pytest.warns(UserWarning, match=r"add\(resid_post\[0\]\) acted on no token: TextPattern"),
        steering.apply(model, strength=1.0),
    ):
        assert torch.equal(model(tokens), model(tokens))
