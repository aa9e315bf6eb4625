"""Heatmaps with named rows and columns: the panel most pictures here are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from torch import Tensor

from interp.plots.scales import MISSING
from interp.plots.sheet import CHARACTER, TICK_SIZE, Panel, Sheet
from interp.plots.tokens import LONGEST_TICK, escape_text, shorten, token_keys
from interp.results.token_text import visible_token

SMALLEST_TICK = 9
"""Pixels between two tick labels below which some are left out."""


@dataclass(frozen=True)
class Ticks:
    """Names along one axis: a unique key and a text for each entry."""

    keys: tuple[str, ...]
    texts: tuple[str, ...]
    """Escaped."""
    longest: int
    """Characters of the longest text, as it appears."""
    title: str
    spacing: int = 0
    """At least so many pixels between two labels, none turned; 0 labels as many as can be read."""

    def __len__(self) -> int:
        return len(self.keys)


def name_ticks(
    labels: Sequence[str | int], title: str, spacing: int = 0, limit: int = 2 * LONGEST_TICK
) -> Ticks:
    """Ticks for layers, heads or other names, cut at ``limit`` characters; equal names stay apart."""
    texts = [shorten(str(label), limit) for label in labels]
    keys = [escape_text(str(label)) for label in labels]
    if len(set(keys)) < len(keys):
        keys = [f"{i} {key}" for i, key in enumerate(keys)]
    return _ticks(keys, texts, title, spacing)


def token_ticks(
    tokens: Sequence[str], title: str = "position", positions: Sequence[int] | None = None
) -> Ticks:
    """Ticks for tokens: white space visible, equal tokens apart, numbered from 0 or by ``positions``."""
    texts = [shorten(visible_token(token), LONGEST_TICK) for token in tokens]
    return _ticks(token_keys(tokens, positions), texts, title)


def _ticks(keys: Sequence[str], texts: list[str], title: str, spacing: int = 0) -> Ticks:
    longest = max((len(text) for text in texts), default=1)
    return Ticks(tuple(keys), tuple(escape_text(text) for text in texts), longest, title, spacing)


def to_array(values: Tensor) -> NDArray[np.float32]:
    """A tensor of any device and dtype as a plain array."""
    return values.detach().cpu().float().numpy()


def two_decimals(values: NDArray[Any]) -> list[list[str]]:
    """Numbers as cell text; nothing reads -0.00, and a missing value is blank."""
    shown = [["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in values]
    return [["0.00" if text == "-0.00" else text for text in row] for row in shown]


def fit_cell(entries: int, room: float, smallest: float, largest: float) -> float:
    """Pixels for one of ``entries`` cells that share about ``room`` pixels."""
    return min(max(room / entries, smallest), largest)


def add_heatmap(
    sheet: Sheet,
    title: str,
    z: NDArray[Any],
    x: Ticks,
    y: Ticks,
    *,
    color_axis: str,
    cell: tuple[float, float],
    names: Sequence[Sequence[str]],
    details: NDArray[Any] | None,
    hover: str,
    top_down: bool = False,
    cell_text: Sequence[Sequence[str]] | None = None,
) -> Panel:
    """A panel with one heatmap. ``z`` is [y, x]; the first row is at the bottom unless ``top_down``.

    ``names`` (escaped) and ``details`` [y, x, ...] fill ``%{hovertext}`` and ``%{customdata[i]}``
    of the ``hover`` template. ``cell_text`` (escaped) is written into the cells.
    """
    panel = sheet.add_panel(title, len(x) * cell[0], len(y) * cell[1], **label_room(x, y, cell[0]))
    panel.color_axis = color_axis
    sheet.figure.add_trace(
        go.Heatmap(
            z=z,
            x=list(x.keys),
            y=list(y.keys),
            coloraxis=color_axis,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
            name=escape_text(title),
            text=None if cell_text is None else [list(row) for row in cell_text],
            hovertext=[list(row) for row in names],
            texttemplate=None if cell_text is None else "%{text}",
            textfont=dict(size=cell_font(cell[0])),
            customdata=details,
            hovertemplate=hover + "<extra></extra>",
            xgap=1 if cell[0] >= 12 else 0,
            ygap=1 if cell[1] >= 12 else 0,
            hoverongaps=True,
        )
    )
    write_category_axes(sheet, panel, x, y, cell, top_down)
    if not np.isfinite(z).all():
        fill_behind(sheet, panel, MISSING)
    return panel


def fill_behind(sheet: Sheet, panel: Panel, color: str) -> None:
    """Colour a panel's background, which shows where a heatmap has no value."""
    sheet.figure.add_shape(
        type="rect",
        xref=f"{panel.xaxis} domain",
        yref=f"{panel.yaxis} domain",
        x0=0,
        x1=1,
        y0=0,
        y1=1,
        line_width=0,
        fillcolor=color,
        layer="below",
    )


def label_room(x: Ticks, y: Ticks, cell_width: float) -> dict[str, int]:
    """Room for tick labels and axis titles, as arguments of :meth:`Sheet.add_panel`."""
    character = TICK_SIZE * CHARACTER
    turned = turns_labels(x, cell_width)
    below = x.longest * character + 10 if turned else TICK_SIZE + 8
    return {"left": round(y.longest * character + 14 + 20), "bottom": round(below + 22)}


def turns_labels(x: Ticks, cell_width: float) -> bool:
    """Whether labels along x must be turned upright to fit their cells."""
    return not x.spacing and x.longest * TICK_SIZE * CHARACTER + 6 > cell_width


def cell_font(cell_width: float) -> int:
    """Font size of text inside cells."""
    return 10 if cell_width >= 34 else 9


def write_category_axes(
    sheet: Sheet, panel: Panel, x: Ticks, y: Ticks, cell: tuple[float, float], top_down: bool
) -> None:
    """Name every row and column; thin the names out where they would touch."""
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"] = category_axis(x, cell[0]) | dict(
        tickangle=-90 if turns_labels(x, cell[0]) else 0
    )
    sheet.figure.layout[f"yaxis{panel.yaxis[1:]}"] = category_axis(y, cell[1], top_down)


def category_axis(names: Ticks, pitch: float, reverse: bool = False) -> dict[str, Any]:
    """An axis of names that stand ``pitch`` pixels apart; some are left out where they would touch."""
    n = len(names)
    size = TICK_SIZE if names.spacing else min(TICK_SIZE, max(8, math.floor(pitch) - 1))
    step = max(1, math.ceil((names.spacing or SMALLEST_TICK) / pitch - 1e-6))
    return dict(
        type="category",
        showgrid=False,
        zeroline=False,
        ticks="outside",
        ticklen=3,
        tickcolor="rgba(0,0,0,0)",
        tickfont=dict(size=size),
        tickvals=list(names.keys[::step]),
        ticktext=list(names.texts[::step]),
        range=[n - 0.5, -0.5] if reverse else [-0.5, n - 0.5],
        title=axis_title(names.title),
    )


def axis_title(text: str) -> dict[str, Any]:
    """An axis title of the common size, close to the labels."""
    return dict(text=escape_text(text), standoff=4, font=dict(size=TICK_SIZE))
