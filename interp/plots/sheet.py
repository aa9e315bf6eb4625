"""A figure laid out in pixels: panels flow into rows, and nothing overlaps at any size.

Plotly's own subplots share one grid, where a 4 x 4 map of heads and a map of 40 tokens cannot
both have readable cells. Here every panel says how large it is and how much room its labels take.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from interp.plots.scales import FRAME, ColorScale
from interp.plots.tokens import escape_text

MAX_WIDTH = 1180
"""Rows are filled up to this width; one panel may be wider."""
MIN_WIDTH = 640
EDGE = 24
TITLE_SIZE, SUBTITLE_SIZE, LABEL_SIZE, TICK_SIZE = 17, 12, 13, 11
CHARACTER = 0.56
"""Width of a character in a label, in font sizes; a little generous, for labels are short."""
PROSE = 0.51
"""The same in a line of text."""
TITLE_LINE = 22
LEGEND_LINE = 20
_LEGEND_MARK = 48
"""Pixels of a marker and the room around it."""
COLOR_BAR = 84
"""Pixels across that a colour bar takes, and the least it is tall."""
ROW_GAP = 14
FONT = "Open Sans, Helvetica, Arial, sans-serif"
INK = "rgb(40,40,40)"


def text_width(text: str, size: float) -> int:
    """About how many pixels a line of text takes."""
    return round(len(text) * size * CHARACTER)


@dataclass
class Panel:
    """A plotting area of ``width`` x ``height`` pixels with room for its labels around it."""

    number: int
    """Of its axes; 0 has none (a table)."""
    title: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    color_axis: str | None = None
    legend: str | None = None
    """A plotly legend (``"legend"``, ``"legend2"`` ...) that stands below this panel."""
    legend_lines: int = 0
    x0: int = field(default=0, init=False)
    y0: int = field(default=0, init=False)

    @property
    def xaxis(self) -> str:
        """Plotly's name of the x axis in traces: ``"x"``, ``"x2"`` ..."""
        return "x" if self.number == 1 else f"x{self.number}"

    @property
    def yaxis(self) -> str:
        """Plotly's name of the y axis in traces."""
        return "y" if self.number == 1 else f"y{self.number}"

    @property
    def slot_width(self) -> int:
        """Pixels across, labels and title included."""
        return self.left + max(self.width + self.right, text_width(self.title, LABEL_SIZE) + 8)


class Sheet:
    """Collects panels, then places them and writes the figure's layout."""

    def __init__(self) -> None:
        self.figure = go.Figure()
        self._bands: list[list[Panel]] = []
        self._tables: list[tuple[Panel, go.Table]] = []
        self._scales: dict[str, ColorScale] = {}
        self._notes: list[str] = []
        self._panels = 0

    def start_band(self) -> None:
        """The next panel begins a new row."""
        self._bands.append([])

    def add_panel(
        self,
        title: str,
        width: float,
        height: float,
        left: int = 50,
        right: int = 16,
        top: int = 26,
        bottom: int = 40,
    ) -> Panel:
        """A panel with axes and room around them, titled ``title`` (escaped here)."""
        self._panels += 1
        panel = Panel(self._panels, title, round(width), round(height), left, right, top, bottom)
        self._place(panel)
        return panel

    def add_table(self, table: go.Table, width: int, height: int, title: str) -> None:
        """A table beside the panels of this band."""
        panel = Panel(0, title, width, height, left=28, right=16, top=26, bottom=8)
        self._place(panel)
        self._tables.append((panel, table))

    def add_legend(self, names: Sequence[str], legend: str = "legend") -> None:
        """Room for ``legend`` beside the panels of this band, where it belongs to all of them."""
        width = max(text_width(name, TICK_SIZE) for name in names) + _LEGEND_MARK
        panel = Panel(0, "", width, 0, left=12, right=8, top=26, bottom=0)
        panel.legend, panel.legend_lines = legend, len(names)
        self._place(panel)

    def add_color_axis(self, scale: ColorScale) -> str:
        """A colour axis for panels of one band; its bar stands right of the band's first row."""
        name = "coloraxis" + (str(len(self._scales) + 1) if self._scales else "")
        self._scales[name] = scale
        return name

    def add_note(self, text: str) -> None:
        """A remark at the end of the subtitle: what was left out, and why."""
        if text not in self._notes:
            self._notes.append(text)

    def finish(self, title: str, subtitle: str) -> go.Figure:
        """Place everything under ``title`` and ``subtitle`` (escaped and wrapped here)."""
        rows = [row for band in self._bands if band for row in _wrap(band)]
        width = max(MIN_WIDTH, *(_row_width(row) for row in rows)) + 2 * EDGE
        lines = textwrap.wrap(
            " · ".join([subtitle, *self._notes]), width=int((width - 2 * EDGE) / (SUBTITLE_SIZE * PROSE))
        )
        titles = textwrap.wrap(title, width=int((width - 2 * EDGE) / (TITLE_SIZE * PROSE)))
        header = round(38 + TITLE_LINE * len(titles) + 17 * len(lines))
        height = header + sum(_row_height(row) + ROW_GAP for row in rows) + EDGE - ROW_GAP
        _place_rows(rows, header)
        self._write_layout(titles, lines, width, height)
        for panel in (panel for row in rows for panel in row):
            self._write_panel(panel, width, height)
        self._write_color_bars(rows, width, height)
        return self.figure

    def _place(self, panel: Panel) -> None:
        if not self._bands:
            self.start_band()
        self._bands[-1].append(panel)

    def _write_layout(self, titles: list[str], lines: list[str], width: int, height: int) -> None:
        self.figure.update_layout(
            template="plotly_white",
            width=width,
            height=height,
            margin=dict(l=0, r=0, t=0, b=0, autoexpand=False),
            paper_bgcolor="white",
            plot_bgcolor="white",
            font=dict(family=FONT, size=TICK_SIZE, color=INK),
            hoverlabel=dict(
                align="left", bgcolor="white", bordercolor=INK, font=dict(family=FONT, size=12, color=INK)
            ),
            # upright at the right edge, where it hides neither title nor data
            modebar=dict(orientation="v", remove=["lasso2d", "select2d"]),
            hovermode="closest",
            title=dict(
                text="<br>".join(escape_text(line) for line in titles),
                subtitle=dict(
                    text="<br>".join(escape_text(line) for line in lines),
                    font=dict(size=SUBTITLE_SIZE, color="rgb(95,95,95)"),
                ),
                font=dict(size=TITLE_SIZE),
                x=EDGE / width,
                xanchor="left",
                # plotly moves a title up by half a line for every line after the first
                y=1 - (14 + TITLE_LINE * (len(titles) - 1) / 2) / height,
                yanchor="top",
                yref="container",
            ),
        )

    def _write_panel(self, panel: Panel, width: int, height: int) -> None:
        x = [panel.x0 / width, (panel.x0 + panel.width) / width]
        y = [1 - (panel.y0 + panel.height) / height, 1 - panel.y0 / height]
        if panel.legend:
            top = 1 - (panel.y0 + panel.height + panel.bottom) / height
            place = dict(x=x[0], xanchor="left", y=top, yanchor="top", xref="paper", yref="paper")
            self.figure.layout[panel.legend] = place | dict(font_size=TICK_SIZE, tracegroupgap=0)
        if panel.title:
            self.figure.add_annotation(
                text=escape_text(panel.title),
                x=x[0],
                y=y[1],
                xref="paper",
                yref="paper",
                xanchor="left",
                yanchor="bottom",
                yshift=3,
                showarrow=False,
                font=dict(size=LABEL_SIZE),
            )
        for owner, table in self._tables:
            if owner is panel:
                table.domain = dict(x=x, y=y)
                self.figure.add_trace(table)
        if panel.number:
            suffix = panel.xaxis[1:]
            place_x = dict(domain=x, anchor=panel.yaxis, automargin=False)
            place_y = dict(domain=y, anchor=panel.xaxis, automargin=False)
            self.figure.update_layout({f"xaxis{suffix}": place_x, f"yaxis{suffix}": place_y})

    def _write_color_bars(self, rows: list[list[Panel]], width: int, height: int) -> None:
        for name, scale in self._scales.items():
            row = next(row for row in rows if any(panel.color_axis == name for panel in row))
            last = [panel for panel in row if panel.color_axis == name][-1]
            ticks = {}
            if scale.ticks:
                ticks = dict(tickvals=[v for v, _ in scale.ticks], ticktext=[text for _, text in scale.ticks])
            bar = dict(
                x=(last.x0 + last.width + 12) / width,
                xanchor="left",
                y=1 - last.y0 / height,
                yanchor="top",
                len=max(last.height, COLOR_BAR),
                lenmode="pixels",
                thickness=12,
                xpad=0,
                ypad=0,
                outlinewidth=1,
                outlinecolor=FRAME,
                nticks=5,
                tickfont=dict(size=TICK_SIZE),
                title=dict(text=escape_text(scale.title), side="right", font=dict(size=TICK_SIZE)),
                **ticks,
            )
            self.figure.layout[name] = scale.color_axis() | {"colorbar": bar}


def _wrap(band: list[Panel]) -> list[list[Panel]]:
    """Fill rows up to the greatest width, with room for the colour bar of each colour axis."""
    rows: list[list[Panel]] = [[]]
    for panel in band:
        if rows[-1] and _row_width([*rows[-1], panel]) > MAX_WIDTH:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _steps(row: list[Panel]) -> list[int]:
    """Pixels that each panel takes, its colour bar included where it is the last of its colours."""
    axes = [panel.color_axis for panel in row]
    return [
        panel.slot_width + (COLOR_BAR if axis is not None and axis not in axes[i + 1 :] else 0)
        for i, (panel, axis) in enumerate(zip(row, axes, strict=True))
    ]


def _row_width(row: list[Panel]) -> int:
    return sum(_steps(row))


def _row_height(row: list[Panel]) -> int:
    below = [panel.height + panel.bottom + LEGEND_LINE * panel.legend_lines for panel in row]
    if any(panel.color_axis for panel in row):
        below.append(COLOR_BAR + 12)
    return max(panel.top for panel in row) + max(below)


def _place_rows(rows: list[list[Panel]], header: int) -> None:
    y = header
    for row in rows:
        x = EDGE
        for panel, step in zip(row, _steps(row), strict=True):
            panel.x0 = x + panel.left
            panel.y0 = y + max(p.top for p in row)
            x += step
        y += _row_height(row) + ROW_GAP
