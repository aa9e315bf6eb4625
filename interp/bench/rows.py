"""Rows of figures in a CSV file that grows: one header, whole lines only."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from interp.bench.setting import Setting
from interp.errors import BenchError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def columns_of_row(kind: type[DataclassInstance]) -> list[str]:
    """The header of a file of such rows: the setting's columns, then the row's own."""
    return [field.name for part in (Setting, kind) for field in fields(part)]


def check_rows_file(path: Path, kind: type[DataclassInstance]) -> bool:
    """Whether the file has its header; ``False`` where it is still to be made.

    Raises :class:`BenchError` for a file with another header or an unfinished last line, and for a
    place that cannot be written.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise BenchError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}; make it.")
        return False
    if not path.is_file():
        raise BenchError(f"cannot write {str(path)!r}: it is not a file; name a .csv file.")
    # newline="" as the csv module wants it: a quoted cell may hold a line break
    with path.open(encoding="utf-8", newline="") as file:
        found = next(csv.reader(file), None)
    if found is None:
        return False
    expected = columns_of_row(kind)
    if found != expected:
        missing = [name for name in expected if name not in found]
        more = [name for name in found if name not in expected]
        raise BenchError(
            f"{str(path)!r} has another header than rows of this benchmark (missing: {missing}, "
            f"unknown: {more}); name a new file."
        )
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            raise BenchError(f"{str(path)!r} ends in the middle of a line; mend it or name a new file.")
    return True


def append_rows(path: Path, setting: Setting, rows: Sequence[DataclassInstance]) -> None:
    """Append rows of one kind, with the header first where the file is new.

    All lines are written by one call, and taken back if it wrote only some.
    Raises :class:`BenchError` as :func:`check_rows_file` does.
    """
    if not rows:
        return
    kind = type(rows[0])
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if not check_rows_file(path, kind):
        writer.writerow(columns_of_row(kind))
    for row in rows:
        writer.writerow([_cell(getattr(part, f.name)) for part in (setting, row) for f in fields(part)])
    data = text.getvalue().encode()
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            written = file.write(data)
            if written != len(data):
                file.truncate(before)
                raise BenchError(
                    f"only part of the rows could be written to {str(path)!r}: is the disk full?"
                )
    except OSError as error:
        raise BenchError(f"cannot write {str(path)!r}: {error.strerror}.") from error


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
