from __future__ import annotations

import pytest
import torch

from interp.errors import TaskError
from interp.tasks import PromptPairs

IDS = torch.arange(12).reshape(3, 4)
ANSWERS = torch.tensor([1, 2, 3])


def _pairs(**changes) -> PromptPairs:
    given = {"clean": IDS, "corrupted": IDS + 1, "answers": ANSWERS, "wrong": ANSWERS + 3}
    return PromptPairs(**(given | changes))


@pytest.mark.parametrize("left", [True, False])
def test_positions_count_from_the_first_real_token(left):
    lengths = torch.tensor([2, 4, 3])
    columns = torch.arange(4)[None]
    mask = columns >= 4 - lengths[:, None] if left else columns < lengths[:, None]
    task = _pairs(attention_mask=mask, labels={"A": torch.tensor([1, 0, 2])})
    assert task.lengths.tolist() == [2, 4, 3]
    assert task.offsets.tolist() == ([2, 0, 1] if left else [0, 0, 0])
    assert task.columns_of("A").tolist() == ([3, 0, 3] if left else [1, 0, 2])
    assert task.columns_of("END").tolist() == task.end.tolist() == ([3, 3, 3] if left else [1, 3, 2])


def test_select_takes_everything_along():
    task = _pairs(
        attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
        labels={"A": torch.tensor([2, 3, 1])},
        clean_text=("a", "b", "c"),
        clean_str_tokens=(("a",), ("b",), ("c",)),
        info=({"i": 0}, {"i": 1}, {"i": 2}),
    )
    some = task.select([2, 0])
    assert some.clean.tolist() == IDS[[2, 0]].tolist() and some.answers.tolist() == [[3], [1]]
    assert some.lengths.tolist() == [2, 3] and some.labels["A"].tolist() == [1, 2]
    assert some.clean_text == ("c", "a") and some.clean_str_tokens == (("c",), ("a",))
    assert [info["i"] for info in some.info] == [2, 0] and some.corrupted_text is None
    assert len(some) == 2 and len(task.select(range(3))) == 3


def test_to_keeps_the_values():
    task = _pairs(labels={"A": torch.tensor([0, 1, 2])}).to("cpu")
    assert torch.equal(task.clean, IDS) and torch.equal(task.labels["A"], torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": IDS[:0], "corrupted": IDS[:0]}, "at least one prompt"),
        ({"corrupted": IDS[:, :3]}, "same shape"),
        ({"answers": ANSWERS[:2]}, "answers must be"),
        ({"wrong": torch.tensor([[1], [2], [-1]])}, "at least one token in 'wrong'"),
        ({"attention_mask": torch.ones(3, 5)}, "attention_mask has shape"),
        ({"attention_mask": torch.tensor([[1] * 4, [0] * 4, [1] * 4])}, "all padding"),
        ({"labels": {"A": torch.tensor([0, 1, 4])}}, "label 'A' must give one position"),
    ],
)
def test_inconsistent_pairs_are_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        _pairs(**changes)


def test_an_unknown_label_suggests_the_nearest():
    task = _pairs(name="ioi", labels={"SUBJECT": torch.tensor([0, 1, 2])})
    with pytest.raises(TaskError, match="position label of task 'ioi' 'SUBJETC'; did you mean 'SUBJECT'"):
        task.columns_of("SUBJETC")
