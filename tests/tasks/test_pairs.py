from __future__ import annotations

import pytest

from interp.errors import TaskError, TokenizationError
from interp.tasks.drawing import draw_pairs
from interp.tasks.pairs import MisalignedError, PairDraft, assemble_task, encode_pair
from interp.tasks.tokenize import Encoder


def _draft(kind: str, name: str, other_kind: str, other_name: str) -> PairDraft:
    """ "A girl Ann" and so on, with the characters of the kind labelled."""
    return PairDraft(
        f"A {kind} {name}",
        f"A {other_kind} {other_name}",
        answers=("x",),
        wrong=("y",),
        spans={"KIND": (2, 2 + len(kind))},
        corrupted_spans={"KIND": (2, 2 + len(other_kind))},
    )


ALIGNED = _draft("girl", "Ann", "lass", "Eve")
SHIFTED = _draft("girl", "Ann", "boy", "Jack")
LONGER = _draft("girl", "Ann", "girl", "Anna")


def test_a_label_must_mean_the_same_in_both_prompts(byte_tokenizer):
    encoder = Encoder(byte_tokenizer)
    assert encode_pair(encoder, ALIGNED).labels == {"KIND": 5, "END": 9}
    assert len(SHIFTED.clean) == len(SHIFTED.corrupted)
    with pytest.raises(MisalignedError, match=r"label 'KIND' is token 5 of 'A girl Ann' but token 4 of"):
        encode_pair(encoder, SHIFTED)
    with pytest.raises(MisalignedError, match=r"(?s)as many tokens.*10 tokens, 'A' ' ' 'g'.*11 tokens"):
        encode_pair(encoder, LONGER)


def test_misaligned_pairs_are_drawn_again(byte_tokenizer):
    other = _draft("girl", "Eve", "lass", "Ann")
    drafts = iter([SHIFTED, ALIGNED, LONGER, ALIGNED, SHIFTED, other])
    pairs = draw_pairs(Encoder(byte_tokenizer), lambda: next(drafts), 2, "mine")
    assert [pair.clean_text for pair in pairs] == ["A girl Ann", "A girl Eve"]


def test_drawing_ends(byte_tokenizer):
    encoder = Encoder(byte_tokenizer)
    with pytest.raises(TaskError, match=r"task 'mine' was asked for 2 different prompts.*only 1"):
        draw_pairs(encoder, lambda: ALIGNED, 2, "mine")
    with pytest.raises(TokenizationError, match=r"no pair drawn came out aligned.*'A girl Ann'"):
        draw_pairs(encoder, lambda: SHIFTED, 2, "mine")


def test_labels_of_some_rows_only_are_left_out(byte_tokenizer):
    encoder = Encoder(byte_tokenizer)
    plain = encode_pair(encoder, PairDraft("ab", "ac", ("x",), ("y",)))
    task = assemble_task(encoder, [encode_pair(encoder, ALIGNED), plain], name="mine")
    assert list(task.labels) == ["END"] and task.lengths.tolist() == [10, 2]
    with pytest.raises(TaskError, match="task 'mine' has no prompts"):
        assemble_task(encoder, [], name="mine")


@pytest.mark.parametrize(("answers", "wrong"), [((), ("x",)), (("x",), ())])
def test_both_sides_need_an_answer(byte_tokenizer, answers, wrong):
    with pytest.raises(TaskError, match="needs a right and a wrong answer; 'ab' lacks one"):
        encode_pair(Encoder(byte_tokenizer), PairDraft("ab", "ac", answers, wrong))
