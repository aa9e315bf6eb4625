from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import tasks
from interp.errors import InterpError, TaskError, TokenizationError
from interp.tasks import NO_TOKEN
from interp.tasks.lexicon import NAMES, OBJECTS

CLEAN = [
    "When Mary and John went to the store, John gave a drink to",
    "John met Mary. Later, John gave it to",
]
CORRUPTED = [
    "When Mary and John went to the store, Mary gave a drink to",
    "John met Mary. Later, Mary gave it to",
]


def _pair(tokenizer, **changes):
    given_ = {"clean": CLEAN, "corrupted": CORRUPTED, "answers": ["Mary", " Mary"], "wrong": ["John", "John"]}
    return tasks.from_text(tokenizer, **(given_ | changes))


@st.composite
def _prompts(draw):
    """Rows of one-token words of different lengths, one word of each changed, and where it stands."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        words = draw(st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=7))
        where = draw(st.integers(0, len(words)))
        first, second = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True))
        # the first word of a text has no space before it and may be several tokens
        clean, corrupted = (["See", *words[:where], name, *words[where:]] for name in (first, second))
        rows.append((" ".join(clean), " ".join(corrupted), first, second))
    return rows


@given(rows=_prompts(), side=st.sampled_from(["left", "right"]))
@settings(deadline=None)
def test_labels_point_at_their_words_in_both_prompts(bpe_tokenizer, rows, side):
    clean, corrupted, names, others = zip(*rows, strict=True)
    task = tasks.from_text(
        bpe_tokenizer, clean, corrupted, names, others, labels={"NAME": names, "LAST": -1}, padding_side=side
    )
    index = torch.arange(len(rows))
    for ids, expected in ((task.clean, names), (task.corrupted, others)):
        found = ids[index, task.columns_of("NAME")].tolist()
        assert [bpe_tokenizer.decode([token]) for token in found] == [f" {name}" for name in expected]
    assert torch.equal(task.labels["LAST"], task.lengths - 1)
    assert torch.equal(task.columns_of("END"), task.columns_of("LAST"))
    for i, text in enumerate(clean):
        real = task.clean[i][task.mask[i]].tolist()
        assert real[1:] == bpe_tokenizer(text, add_special_tokens=False)["input_ids"]
    if task.attention_mask is not None:
        assert len(set(task.lengths.tolist())) > 1
        assert bool(task.mask[:, 0 if side == "right" else -1].all())


def test_rows_of_unequal_length_are_padded(word_tokenizer):
    task = _pair(word_tokenizer, labels={"S2": "John#2", "IO": "Mary"})
    assert task.lengths.tolist() == [15, 11] and task.clean.shape == (2, 15)
    assert task.attention_mask.sum(dim=1).tolist() == [15, 11]
    assert (task.clean != task.corrupted).nonzero().tolist() == [[0, 10], [1, 7]]
    assert task.labels["S2"].tolist() == [10, 7] and task.labels["IO"].tolist() == [2, 3]
    assert torch.equal(task.answers, task.answers[:1].expand(2, 1))
    assert task.clean_text == tuple(CLEAN) and task.clean_str_tokens[1][-1] == "to"
    assert task.metric is None and task.name == "custom"


def test_several_answers_make_ragged_rows(word_tokenizer):
    task = _pair(word_tokenizer, answers=[["Mary", "Alice"], "Mary"], wrong=["John", ["John", "Tom", "Paul"]])
    assert task.answers.shape == (2, 2) and task.wrong.shape == (2, 3)
    assert (task.answers == NO_TOKEN).sum(dim=1).tolist() == [0, 1]
    assert (task.wrong == NO_TOKEN).sum(dim=1).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"clean": [], "corrupted": [], "answers": [], "wrong": []}, TaskError, "at least one pair"),
        ({"answers": ["Mary"]}, TaskError, "clean 2, corrupted 2, answers 1, wrong 2"),
        ({"clean": CLEAN[0]}, TaskError, "clean must be a list with one entry a prompt; got str"),
        ({"answers": ["John", "Mary"]}, TaskError, "row 0: 'John' is both a right and a wrong answer"),
        ({"answers": [[], "Mary"]}, TaskError, "row 0: an answer is a string or several"),
        ({"answers": ["Mary", 3]}, TaskError, "row 1: an answer is a string or several strings; got 3"),
        (
            {"answers": ["Mary", "Mary met"]},
            TokenizationError,
            "row 1: answer ' Mary met'.* 2 tokens, 'Mary' 'met'",
        ),
        ({"answers": ["Mary", "wombat"]}, TokenizationError, "row 1.*not in the vocabulary"),
        (
            {"clean": [CLEAN[0], "John"]},
            TokenizationError,
            "row 1: a clean.*as many.*2 tokens, '<bos>' 'John'",
        ),
        ({"clean": [CLEAN[0], ""]}, TokenizationError, "row 1.*into no tokens"),
        ({"labels": {"IO": "Alice"}}, TaskError, "row 0: label text 'Alice' does not occur"),
        ({"labels": {"S": "John"}}, TaskError, "occurs 2 times.*'John#1', 'John#2'"),
        ({"labels": {"S": "John#3"}}, TaskError, "occurs 2 times.*not 3"),
        ({"labels": {"S": ["John#1"]}}, TaskError, "label 'S' has 1 entries for 2 prompts"),
        (
            {"labels": {"S": [3, 40]}},
            TaskError,
            "row 1: label position 40 lies outside a prompt of 11 tokens",
        ),
        ({"labels": {"S": [3, 2.5]}}, TaskError, "row 1: a label is a piece.*2.5"),
        ({"padding_side": "both"}, TaskError, "unknown padding side 'both'"),
    ],
)
def test_bad_texts_are_refused(word_tokenizer, changes, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        _pair(word_tokenizer, **changes)


def test_the_last_occurrence_and_a_literal_sign(bpe_tokenizer):
    task = _pair(bpe_tokenizer, labels={"S2": "John#-1", "S1": "John#1"})
    assert all(task.clean_str_tokens[i][int(task.labels["S2"][i])] == " John" for i in range(2))
    one = {
        "clean": ["see John#2 and Mary"],
        "corrupted": ["see John#2 and John"],
        "answers": ["Tom"],
        "wrong": ["Amy"],
    }
    literal = tasks.from_text(bpe_tokenizer, **one, labels={"HASH": "John#2"})
    assert literal.clean_str_tokens[0][int(literal.labels["HASH"][0])] == "2"


IDS = torch.tensor([[5, 6, 7, 8], [9, 6, 7, 0]])
OTHER = torch.tensor([[5, 3, 7, 8], [9, 3, 7, 0]])
RIGHT_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def test_from_tokens_needs_nothing_but_tokens():
    task = tasks.from_tokens(IDS, OTHER, torch.tensor([1, 2]), torch.tensor([3, 4]))
    assert task.answers.tolist() == [[1], [2]] and task.attention_mask is None
    assert task.clean_text is None and task.end.tolist() == [3, 3]
    same = tasks.from_tokens(IDS.tolist(), OTHER.tolist(), [1, 2], [3, 4])
    for field in ("clean", "corrupted", "answers", "wrong"):
        assert torch.equal(getattr(task, field), getattr(same, field))
        assert getattr(same, field).dtype == torch.long


def test_from_tokens_with_mask_labels_and_ragged_answers():
    task = tasks.from_tokens(
        IDS, OTHER, [[1], [2, 11]], [3, 4], attention_mask=RIGHT_MASK, labels={"A": [1, -1], "B": -2, "C": 0}
    )
    assert task.answers.tolist() == [[1, NO_TOKEN], [2, 11]]
    assert task.labels["A"].tolist() == [1, 2] and task.labels["B"].tolist() == [2, 1]
    assert task.end.tolist() == [3, 2]
    left = tasks.from_tokens(
        IDS.flip(1), OTHER.flip(1), [1, 2], [3, 4], attention_mask=RIGHT_MASK.flip(1), labels={"A": [1, -1]}
    )
    assert left.columns_of("A").tolist() == [1, 3] and left.end.tolist() == [3, 3]


def test_from_tokens_keeps_text_where_there_is_a_tokenizer(word_tokenizer):
    made = _pair(word_tokenizer, padding_side="left")
    task = tasks.from_tokens(
        made.clean, made.corrupted, made.answers, made.wrong, made.attention_mask, made.labels, word_tokenizer
    )
    assert task.clean_str_tokens == made.clean_str_tokens
    assert task.corrupted_str_tokens == made.corrupted_str_tokens
    assert torch.equal(task.columns_of("END"), made.columns_of("END"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": torch.zeros(0, 4, dtype=torch.long)}, "at least one prompt"),
        ({"clean": torch.zeros(2, 0, dtype=torch.long)}, "at least one prompt"),
        ({"clean": IDS[:, :3]}, "same shape"),
        ({"clean": IDS.float()}, "clean must be integer token ids; got torch.float32"),
        ({"clean": [[1, 2], [3]]}, "clean must be token ids.*equally long"),
        ({"clean": -IDS}, "clean has token ids from -9"),
        ({"answers": [1, 2, 3]}, "answers must be .batch."),
        ({"answers": [3, 2]}, "'3' is both a right and a wrong answer to 'prompt 0'"),
        ({"answers": 7}, "answers must be token ids"),
        ({"answers": torch.ones(2, 1, 1, dtype=torch.long)}, "answers must be .batch. or .batch, k."),
        ({"answers": [[1], []]}, "at least one token in 'answers'"),
        ({"answers": [1, 61]}, "answers has token ids from 1 to 61; expected 0 to 60"),
        ({"attention_mask": RIGHT_MASK[:, :2]}, "attention_mask has shape"),
        ({"attention_mask": torch.zeros(2, 4)}, "all padding"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])}, "rows .1. has padding between"),
        ({"labels": {"A": [1, 9]}}, "label 'A' must give one position"),
        ({"labels": {"A": [1, 2, 3]}}, "label 'A' must be one position for each of 2"),
        ({"labels": {"A": [-5, 0]}}, "label 'A' must give one position"),
    ],
)
def test_bad_tokens_are_refused(tokenless_model, changes, message):
    arguments = {
        "clean": IDS,
        "corrupted": OTHER,
        "answers": [1, 2],
        "wrong": [3, 4],
        "model": tokenless_model,
    }
    with pytest.raises(InterpError, match=message):
        tasks.from_tokens(**(arguments | changes))
