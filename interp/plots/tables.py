"""A small ranking beside a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

import plotly.graph_objects as go

from interp.plots.sheet import Sheet, text_width
from interp.plots.tokens import escape_text

_ROW = 22
_NUMBER = re.compile(r"[-+−]?[\d.]|nan|[-–—]?$", re.I)


def add_table(sheet: Sheet, title: str, columns: Sequence[tuple[str, Sequence[str]]]) -> None:
    """A table of text columns, each a heading and its cells (escaped here); only numbers are right-aligned."""
    widths = [max(text_width(text, 12) for text in (heading, *cells)) + 24 for heading, cells in columns]
    align = ["left", *("right" if all(map(_NUMBER.match, cells)) else "left" for _, cells in columns[1:])]
    rows = max(len(cells) for _, cells in columns)
    table = go.Table(
        columnwidth=widths,
        header=dict(
            values=[f"<b>{escape_text(heading)}</b>" for heading, _ in columns],
            align=align,
            height=_ROW + 2,
            fill_color="rgb(238,241,245)",
            line_width=0,
            font_size=12,
        ),
        cells=dict(
            values=[[escape_text(cell) for cell in cells] for _, cells in columns],
            align=align,
            height=_ROW,
            fill_color="white",
            line=dict(color="rgb(238,241,245)", width=1),
            font_size=12,
        ),
    )
    sheet.add_table(table, width=sum(widths), height=_ROW * rows + 44, title=title)
