"""What a benchmark gives back, before anything is printed or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

RowT = TypeVar("RowT")
Say = Callable[[str], None]
"""Takes one line about what is being done now."""


def say_nothing(line: str) -> None:
    """A :data:`Say` that drops the line."""


@dataclass(frozen=True)
class Table:
    """Cells for a terminal; the first column is text, the others are numbers."""

    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report(Generic[RowT]):
    """Rows to keep, tables to read, remarks that belong to them, and the figures in one line."""

    rows: Sequence[RowT]
    tables: Sequence[Table]
    notes: Sequence[str]
    last_line: str


def write_plainly(report: Report[RowT]) -> str:
    """Tables, notes and the last line as text in columns, for where nothing prints tables."""
    lines: list[str] = []
    for table in report.tables:
        rows = [table.headings, *table.cells]
        widths = [max(len(cells[i]) for cells in rows) for i in range(len(table.headings))]
        lines.append(table.title)
        for cells in rows:
            first, *others = [
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join([f"  {first}", *others]).rstrip())
        lines.append("")
    return "\n".join([*lines, *report.notes, report.last_line])
