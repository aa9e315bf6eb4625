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

    def __len__(self) -> int:
        return len(self.keys)


def name_ticks(labels: Sequence[str | int], title: str) -> Ticks:
    """Ticks for layers, heads or other names; entries of equal name stay apart."""
    texts = [shorten(str(label), 2 * LONGEST_TICK) for label in labels]
    keys = [escape_text(str(label)) for label in labels]
    if len(set(keys)) < len(keys):
        keys = [f"{i} {key}" for i, key in enumerate(keys)]
    return _ticks(keys, texts, title)


def token_ticks(tokens: Sequence[str], title: str = "position") -> Ticks:
    """Ticks for tokens: white space visible, equal tokens apart."""
    texts = [shorten(visible_token(token), LONGEST_TICK) for token in tokens]
    return _ticks(token_keys(tokens), texts, title)


def _ticks(keys: Sequence[str], texts: list[str], title: str) -> Ticks:
    longest = max((len(text) for text in texts), default=1)
    return Ticks(tuple(keys), tuple(escape_text(text) for text in texts), longest, title)


def to_array(values: Tensor) -> NDArray[np.float32]:
    """A tensor of any device and dtype as a plain array."""
    return values.detach().cpu().float().numpy()


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

    ``names`` (escaped) and ``details`` [y, x, ...] fill ``%{text}`` and ``%{customdata[i]}`` of the
    ``hover`` template. ``cell_text`` is written into the cells instead of showing nothing.
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
            text=[list(row) for row in names] if cell_text is None else [list(row) for row in cell_text],
            hovertext=[list(row) for row in names],
            texttemplate=None if cell_text is None else "%{text}",
            textfont=dict(size=cell_font(cell[0])),
            customdata=details,
            hovertemplate=hover.replace("%{text}", "%{hovertext}") + "<extra></extra>",
            xgap=1 if cell[0] >= 12 else 0,
            ygap=1 if cell[1] >= 12 else 0,
            hoverongaps=True,
        )
    )
    write_category_axes(sheet, panel, x, y, cell, top_down)
    if not np.isfinite(z).all():
        sheet.figure.add_shape(
            type="rect",
            xref=f"{panel.xaxis} domain",
            yref=f"{panel.yaxis} domain",
            x0=0,
            x1=1,
            y0=0,
            y1=1,
            line_width=0,
            fillcolor=MISSING,
            layer="below",
        )
    return panel


def label_room(x: Ticks, y: Ticks, cell_width: float) -> dict[str, int]:
    """Room for tick labels and axis titles, as arguments of :meth:`Sheet.add_panel`."""
    character = TICK_SIZE * CHARACTER
    turned = turns_labels(x, cell_width)
    below = x.longest * character + 10 if turned else TICK_SIZE + 8
    return {"left": round(y.longest * character + 14 + 20), "bottom": round(below + 22)}


def turns_labels(x: Ticks, cell_width: float) -> bool:
    """Whether labels along x must be turned upright to fit their cells."""
    return x.longest * TICK_SIZE * CHARACTER + 6 > cell_width


def cell_font(cell_width: float) -> int:
    """Font size of text inside cells."""
    return 10 if cell_width >= 34 else 9


def write_category_axes(
    sheet: Sheet, panel: Panel, x: Ticks, y: Ticks, cell: tuple[float, float], top_down: bool
) -> None:
    """Name every row and column; thin the names out where they would touch."""
    shared = dict(type="category", showgrid=False, zeroline=False, ticks="", tickfont_size=TICK_SIZE)
    turned = turns_labels(x, cell[0])
    pitch = SMALLEST_TICK if turned else x.longest * TICK_SIZE * CHARACTER
    columns = range(0, len(x), _thin(cell[0], pitch))
    rows = range(0, len(y), _thin(cell[1], SMALLEST_TICK))
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"] = shared | dict(
        tickvals=[x.keys[i] for i in columns],
        ticktext=[x.texts[i] for i in columns],
        range=[-0.5, len(x) - 0.5],
        tickangle=-90 if turned else 0,
        title=axis_title(x.title),
    )
    sheet.figure.layout[f"yaxis{panel.yaxis[1:]}"] = shared | dict(
        tickvals=[y.keys[i] for i in rows],
        ticktext=[y.texts[i] for i in rows],
        range=[len(y) - 0.5, -0.5] if top_down else [-0.5, len(y) - 0.5],
        title=axis_title(y.title),
    )


def axis_title(text: str) -> dict[str, Any]:
    """An axis title of the common size, close to the labels."""
    return dict(text=escape_text(text), standoff=4, font=dict(size=TICK_SIZE))


def _thin(cell: float, pitch: float) -> int:
    return max(1, math.ceil(pitch / cell - 1e-6))
