"""One page that needs nothing but a browser: text, tables and figures, with plotly.js inside once."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import ExportError
from interp.reports.files import check_writable, write_atomically
from interp.reports.style import CSS

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cell = str | int | float | None

HTML_ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class Table:
    """A table; a column of numbers is set flush right.

    Raises :class:`ExportError` for a ragged row, and for groups that do not span all columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """Text is escaped, a float is shown with three decimals, ``None`` and NaN as a dash."""
    groups: tuple[tuple[str, int], ...] = ()
    """A heading over so many columns each, in a line above; an empty one leaves its columns without."""

    def __post_init__(self) -> None:
        ragged = [row for row in self.rows if len(row) != len(self.columns)]
        if ragged:
            raise ExportError(f"a row of the table {self.columns} has {len(ragged[0])} cells: {ragged[0]}.")
        spanned = sum(width for _, width in self.groups)
        if self.groups and spanned != len(self.columns):
            raise ExportError(
                f"groups of the table {self.columns} span {spanned} of its columns; expected all."
            )


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, paragraphs of plain text, prepared HTML, tables, then figures."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[go.Figure, ...] = ()
    prepared: tuple[str, ...] = ()
    """HTML that stands in the page as it is: only what a function of this package made, which escapes
    all that came from elsewhere (``interp.plots.token_html``)."""


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = ""
) -> Path:
    """Write ``sections`` as one HTML file that works offline, and return its path.

    All text is escaped but :attr:`Section.prepared`; plotly.js stands in the file once. The file is
    replaced as a whole, so a failure leaves an older report as it was. Raises :class:`ExportError`
    when there are no sections, the ending is not ``.html``, or the file cannot be written.
    """
    path = check_html_path(path)
    if not sections:
        raise ExportError("a report needs at least one section; got none.")
    return write_atomically(path, _page(title, subtitle, sections, footer))


def check_html_path(path: str | Path) -> Path:
    """``path``, if a report can be written there. Raises :class:`ExportError` otherwise."""
    path = Path(path)
    if path.suffix.lower() not in HTML_ENDINGS:
        raise ExportError(f"a report is an HTML file, such as report.html; got {str(path)!r}.")
    return check_writable(path)


def open_page(title: str, style: str = "") -> str:
    """The begin of a page up to within its head, with the styles of all reports and some of its own."""
    # an empty icon: browsers ask for favicon.ico otherwise, and say in the console that it is missing
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="interp">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{CSS}{style}</style>"""


def _page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    names = _anchors(sections)
    links = "\n".join(
        f'<a href="#{name}">{html.escape(s.title)}</a>' for name, s in zip(names, sections, strict=True)
    )
    body = "\n".join(_section(name, section) for name, section in zip(names, sections, strict=True))
    return f"""{open_page(title)}
{_plotly_script(sections)}
</head>
<body>
<main>
<header>
<h1>{html.escape(title)}</h1>
<p class="subtitle">{html.escape(subtitle)}</p>
</header>
<nav>
{links}
</nav>
{body}
<footer>{html.escape(footer)}</footer>
</main>
</body>
</html>
"""


def _plotly_script(sections: Sequence[Section]) -> str:
    if not any(section.figures for section in sections):
        return ""
    from plotly.offline import get_plotlyjs

    return f'<script id="plotly-js">{get_plotlyjs()}</script>'


def _anchors(sections: Sequence[Section]) -> list[str]:
    slugs = (re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections)
    return [f"part-{number}-{slug}".rstrip("-") for number, slug in enumerate(slugs, start=1)]


def _section(name: str, section: Section) -> str:
    from interp.plots import figure_html

    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
    parts += [f'<div class="prepared">{markup}</div>' for markup in section.prepared]
    parts += [f'<div class="scroll">{_table(table)}</div>' for table in section.tables]
    parts += [
        f'<div class="scroll">{figure_html(figure, f"{name}-figure-{number}")}</div>'
        for number, figure in enumerate(section.figures, start=1)
    ]
    return "\n".join([f'<section id="{name}">', *parts, "</section>"])


def _table(table: Table) -> str:
    numeric = [any(isinstance(row[i], int | float) for row in table.rows) for i in range(len(table.columns))]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f"<th{k}>{html.escape(c)}</th>" for k, c in zip(kinds, table.columns, strict=True))
    above = "".join(f'<th class="group" colspan="{n}">{html.escape(text)}</th>' for text, n in table.groups)
    above = f"<tr>{above}</tr>\n" if above else ""
    rows = [
        "".join(f"<td{kind}>{html.escape(_cell(cell))}</td>" for kind, cell in zip(kinds, row, strict=True))
        for row in table.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    kind = ' class="grouped"' if table.groups else ""
    return f"<table{kind}>\n<thead>{above}<tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:z.3f}".replace("-", "−") if isinstance(cell, float) else str(cell)
