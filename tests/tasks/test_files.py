from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from interp import tasks
from interp.errors import DataFileError, TaskError, TokenizationError

ROWS = [
    {
        "clean": "When Mary and John went to the store, John gave a drink to",
        "corrupted": "When Mary and John went to the store, Mary gave a drink to",
        "answer": "Mary",
        "wrong": "John",
        "label_S2": "John#2",
        "source": "first",
    },
    {
        "clean": "John met Mary. Later, John gave it to",
        "corrupted": "John met Mary. Later, Mary gave it to",
        "answer": " Mary",
        "wrong": " John",
        "label_S2": "John#2",
        "source": "second",
    },
]


def _write_csv(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def _write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def _same(a: tasks.PromptPairs, b: tasks.PromptPairs) -> None:
    for field in ("clean", "corrupted", "answers", "wrong"):
        assert getattr(a, field).tolist() == getattr(b, field).tolist()
    assert {k: v.tolist() for k, v in a.labels.items()} == {k: v.tolist() for k, v in b.labels.items()}


def test_every_source_gives_the_same_task(word_tokenizer, tmp_path):
    import datasets

    direct = tasks.from_text(
        word_tokenizer,
        *([row[key] for row in ROWS] for key in ("clean", "corrupted", "answer", "wrong")),
        labels={"S2": "John#2"},
    )
    from_csv = tasks.from_file(word_tokenizer, _write_csv(tmp_path / "pairs.csv", ROWS))
    from_jsonl = tasks.from_file(word_tokenizer, str(_write_jsonl(tmp_path / "pairs.jsonl", ROWS)))
    from_dataset = tasks.from_dataset(word_tokenizer, datasets.Dataset.from_list(ROWS))
    for task in (from_csv, from_jsonl, from_dataset):
        _same(task, direct)
        assert [dict(info) for info in task.info] == [{"source": "first"}, {"source": "second"}]
    assert (from_csv.name, from_dataset.name) == ("pairs", "dataset")


def test_columns_may_have_other_names_and_rows_be_limited(word_tokenizer, tmp_path):
    renamed = [
        {"good": r["clean"], "bad": r["corrupted"], "a": r["answer"], "w": r["wrong"], "S2": "John#2"}
        for r in ROWS
    ]
    path = _write_csv(tmp_path / "p.csv", renamed)
    task = tasks.from_file(
        word_tokenizer, path, ["S2"], clean="good", corrupted="bad", answer="a", wrong="w", n=1, name="mine"
    )
    assert len(task) == 1 and task.name == "mine" and task.labels["S2"].tolist() == [10]


def test_spreadsheets_write_a_byte_order_mark(word_tokenizer, tmp_path):
    _same(
        tasks.from_file(word_tokenizer, _write_csv(tmp_path / "a.csv", ROWS, "utf-8-sig")),
        tasks.from_file(word_tokenizer, _write_csv(tmp_path / "b.csv", ROWS)),
    )


def test_jsonl_takes_several_answers_and_positions(word_tokenizer, tmp_path):
    rows = [{**row, "answer": ["Mary", "Alice"], "label_S2": -5} for row in ROWS]
    path = _write_jsonl(tmp_path / "p.jsonl", rows)
    path.write_text(path.read_text().replace("\n", "\n\n"))  # blank lines are nothing
    task = tasks.from_file(word_tokenizer, path)
    assert task.answers.shape == (2, 2) and task.labels["S2"].tolist() == [10, 6]


def test_a_streamed_data_set(word_tokenizer):
    import datasets

    endless = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    assert len(tasks.from_dataset(word_tokenizer, endless, n=2)) == 2


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("p.csv", "", TaskError, "has no rows"),
        ("p.csv", "clean,corrupted,answer,wrong\n", TaskError, "has no rows"),
        (
            "p.csv",
            "clean,corrupt,answer,wrong\na,b,c,d\n",
            TaskError,
            "no column 'corrupted'; did you mean 'corrupt'",
        ),
        (
            "p.csv",
            "clean,corrupted,answer,wrong\na,b,c\n",
            TaskError,
            "line 2 .* has nothing in column 'wrong'",
        ),
        (
            "p.csv",
            "clean,corrupted,answer,wrong\na,b,c,d,e\n",
            TaskError,
            "line 2 .* more cells than the header",
        ),
        (
            "p.csv",
            'clean,corrupted,answer,wrong\na,"b"x,c,d\n',
            DataFileError,
            "the row after line 1 .* is not CSV",
        ),
        ("p.jsonl", "", TaskError, "has no rows"),
        ("p.jsonl", '{"clean": \n', DataFileError, "line 1 .* is not JSON"),
        ("p.jsonl", "[1, 2]\n", DataFileError, "line 1 .* is not a JSON object"),
        ("p.jsonl", '{"clean": "a"}\n', TaskError, "no column 'corrupted'"),
        (
            "p.jsonl",
            '{"clean": 3, "corrupted": "Mary", "answer": "b", "wrong": "c"}',
            TokenizationError,
            "string",
        ),
        ("p.txt", "", DataFileError, "expected a file that ends in .csv or .jsonl"),
    ],
)
def test_bad_files_are_refused(word_tokenizer, tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        tasks.from_file(word_tokenizer, tmp_path / name)


def test_a_missing_or_binary_file_is_refused(word_tokenizer, tmp_path):
    with pytest.raises(DataFileError, match="no file at"):
        tasks.from_file(word_tokenizer, tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"clean,corrupted\n\xff\xfe\x00,x\n")
    with pytest.raises(DataFileError, match="not UTF-8"):
        tasks.from_file(word_tokenizer, tmp_path / "b.csv")


def test_errors_name_the_line(word_tokenizer, tmp_path):
    path = _write_csv(tmp_path / "p.csv", [ROWS[0], ROWS[1] | {"corrupted": "John met"}])
    with pytest.raises(TokenizationError, match=r"(?s)line 3 of .*p.csv.*as many tokens.*'John' 'met'"):
        tasks.from_file(word_tokenizer, path)
    with pytest.raises(TaskError, match="no column 'IO'"):
        tasks.from_file(word_tokenizer, _write_csv(tmp_path / "q.csv", ROWS), ["IO"])


def test_splits_of_a_data_set_are_not_a_data_set(word_tokenizer):
    import datasets

    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))
    with pytest.raises(TaskError, match=r"DatasetDict with train; choose one, like dataset\['train'\]"):
        tasks.from_dataset(word_tokenizer, splits)
    with pytest.raises(TaskError, match="row 0 of the data set is a str"):
        tasks.from_dataset(word_tokenizer, ["a", "b"])  # type: ignore[list-item]
    with pytest.raises(TaskError, match="the data set has no rows"):
        tasks.from_dataset(word_tokenizer, [])
