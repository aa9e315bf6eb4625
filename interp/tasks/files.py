"""Tasks from tables: CSV and JSONL files, and ``datasets.Dataset``.

Every row has a clean and a corrupted prompt, an answer and a wrong answer. Columns named
``label_S1`` give the text (or, as a number in JSONL and data sets, the position) of a label ``S1``;
all other columns are kept in ``task.info``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from interp.errors import DataFileError, TaskError, suggest_names
from interp.tasks.base import PromptPairs
from interp.tasks.custom import encode_row
from interp.tasks.pairs import assemble_task
from interp.tasks.tokenize import Encoder

LABEL_PREFIX = "label_"
Row = tuple[str, Mapping[str, Any]]
"""Where a row stands (for errors), and its cells."""


def from_file(
    model: Any,
    path: str | Path,
    labels: Sequence[str] | None = None,
    *,
    clean: str = "clean",
    corrupted: str = "corrupted",
    answer: str = "answer",
    wrong: str = "wrong",
    n: int | None = None,
    padding_side: str = "right",
    prepend_bos: bool | None = None,
    name: str | None = None,
) -> PromptPairs:
    """A task from a CSV file with a header, or a JSONL file with one object a line, in UTF-8.

    ``clean``, ``corrupted``, ``answer`` and ``wrong`` name the columns. ``labels`` names columns whose
    cells are pieces of the clean prompt, as in :func:`from_text`; by default those that begin with
    ``label_``, which is left out of the label. In JSONL an answer may be a list. ``n`` takes the first
    rows only.

    Raises :class:`~interp.errors.DataFileError` for a file that is missing, of another kind, or not
    readable; :class:`~interp.errors.TaskError` for missing columns, empty cells or no rows;
    :class:`~interp.errors.TokenizationError` as :func:`from_text`, naming the line.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise DataFileError(
            f"cannot read {str(path)!r}: expected a file that ends in {' or '.join(readers)}."
        )
    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}.")
    try:
        rows = list(islice(readers[path.suffix.lower()](path), n))
    except UnicodeDecodeError as error:
        raise DataFileError(f"{str(path)!r} is not UTF-8 text ({error}); save it as UTF-8.") from None
    columns = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    return _from_rows(
        model,
        rows,
        columns,
        labels,
        str(path),
        padding_side,
        prepend_bos,
        path.stem if name is None else name,
    )


def from_dataset(
    model: Any,
    dataset: Iterable[Mapping[str, Any]],
    labels: Sequence[str] | None = None,
    *,
    clean: str = "clean",
    corrupted: str = "corrupted",
    answer: str = "answer",
    wrong: str = "wrong",
    n: int | None = None,
    padding_side: str = "right",
    prepend_bos: bool | None = None,
    name: str = "dataset",
) -> PromptPairs:
    """A task from a ``datasets.Dataset`` (or any iterable of rows as mappings), as :func:`from_file`.

    A streamed data set is read up to ``n`` rows. Raises :class:`~interp.errors.TaskError` for a
    ``DatasetDict``: choose one of its splits.
    """
    if isinstance(dataset, Mapping):
        raise TaskError(
            f"got a {type(dataset).__name__} with {', '.join(map(str, dataset))}; choose one, like "
            f"dataset[{next(iter(dataset), 'train')!r}]."
        )
    rows = [(f"row {i}", row) for i, row in enumerate(islice(dataset, n))]
    for where, row in rows[:1]:
        if not isinstance(row, Mapping):
            raise TaskError(f"{where} of the data set is a {type(row).__name__}; expected columns by name.")
    columns = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    return _from_rows(model, rows, columns, labels, "the data set", padding_side, prepend_bos, name)


def _read_csv(path: Path) -> Iterator[Row]:
    # utf-8-sig: spreadsheets put a byte-order mark in front, which would become part of a column's name
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"line {reader.line_num}"
                if None in row:
                    raise TaskError(
                        f"{where} of {str(path)!r} has more cells than the header; quote cells with commas."
                    )
                yield where, row
        except csv.Error as error:
            raise DataFileError(
                f"the row after line {reader.line_num} of {str(path)!r} is not CSV: {error}."
            ) from None


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataFileError(f"line {number} of {str(path)!r} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise DataFileError(
                    f"line {number} of {str(path)!r} is not a JSON object: {line.strip()[:60]!r}."
                )
            yield f"line {number}", row


def _from_rows(
    model: Any,
    rows: Sequence[Row],
    columns: Mapping[str, str],
    labels: Sequence[str] | None,
    source: str,
    padding_side: str,
    prepend_bos: bool | None,
    name: str,
) -> PromptPairs:
    if not rows:
        raise TaskError(f"{source} has no rows; a task needs at least one pair of prompts.")
    there = list(rows[0][1])
    labelled = _label_columns(there, labels)
    for column in (*columns.values(), *labelled.values()):
        if column not in there:
            raise TaskError(
                f"{source} has no column {column!r}{suggest_names(column, there)} It has: {', '.join(there)}."
            )
    encoder = Encoder(model, prepend_bos)
    used = {*columns.values(), *labelled.values()}
    pairs = []
    for where, row in rows:
        cells = {part: _cell(row, column, where, source) for part, column in columns.items()}
        specs = {label: _cell(row, column, where, source) for label, column in labelled.items()}
        extra = {column: value for column, value in row.items() if column not in used}
        pairs.append(
            encode_row(
                encoder,
                (cells["clean"], cells["corrupted"], cells["answer"], cells["wrong"]),
                specs,
                where=f"{where} of {source}",
                info=extra,
            )
        )
    return assemble_task(encoder, pairs, name=name, padding_side=padding_side)


def _label_columns(there: Sequence[str], labels: Sequence[str] | None) -> dict[str, str]:
    """Label -> the column that gives it."""
    listed = [column for column in there if column.startswith(LABEL_PREFIX)] if labels is None else labels
    return {column.removeprefix(LABEL_PREFIX): column for column in listed}


def _cell(row: Mapping[str, Any], column: str, where: str, source: str) -> Any:
    value = row.get(column)
    if value is None or value == "" or value == []:
        raise TaskError(f"{where} of {source} has nothing in column {column!r}.")
    return value
