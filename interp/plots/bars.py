"""Bars with a name each."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from interp.plots.heatmaps import Ticks, axis_title, category_axis, label_room, name_ticks, turns_labels
from interp.plots.scales import sign_colors
from interp.plots.sheet import CHARACTER, TICK_SIZE, Panel, Sheet

GRID = "rgb(230,230,230)"
ZERO = "rgb(120,120,120)"


def value_axis(title: str, **settings: object) -> dict[str, object]:
    """An axis of numbers with a light grid and a line at 0."""
    return (
        dict(
            type="linear",
            gridcolor=GRID,
            zeroline=True,
            zerolinecolor=ZERO,
            zerolinewidth=1,
            nticks=6,
            tickfont=dict(size=TICK_SIZE),
            title=axis_title(title),
        )
        | settings
    )


def add_bars(
    sheet: Sheet,
    title: str,
    names: Ticks,
    values: Sequence[float],
    hovers: Sequence[str],
    *,
    value_title: str,
    horizontal: bool,
    colors: Sequence[str] | None = None,
    errors: Sequence[float] | None = None,
    pitch: float,
    length: float,
    top_down: bool = False,
) -> Panel:
    """A panel of bars, ``pitch`` pixels a bar and ``length`` pixels along the values.

    ``hovers`` are escaped texts. Bars are blue above 0 and red below unless ``colors`` says
    otherwise. Horizontal bars start at the bottom unless ``top_down``.
    """
    across = max(len(names) * pitch, 24)
    if horizontal:
        left = round(names.longest * TICK_SIZE * CHARACTER + 14 + (20 if names.title else 0))
        panel = sheet.add_panel(title, length, across, left=left)
    else:
        room = label_room(names, names, pitch) | {"left": 66}
        panel = sheet.add_panel(title, across, length, **room)
    spread = (
        None if errors is None else dict(type="data", array=list(errors), color=ZERO, thickness=1, width=3)
    )
    positions, heights = list(names.keys), list(values)
    sheet.figure.add_trace(
        go.Bar(
            x=heights if horizontal else positions,
            y=positions if horizontal else heights,
            orientation="h" if horizontal else "v",
            marker=dict(color=list(colors) if colors is not None else sign_colors(values), line_width=0),
            error_x=spread if horizontal else None,
            error_y=None if horizontal else spread,
            hovertext=list(hovers),
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    named, measured = ("y", "x") if horizontal else ("x", "y")
    axis = category_axis(names, pitch, reverse=horizontal and top_down)
    if not horizontal:
        axis["tickangle"] = -90 if turns_labels(names, pitch) else 0
    number = panel.xaxis[1:]
    sheet.figure.layout[f"{named}axis{number}"] = axis
    sheet.figure.layout[f"{measured}axis{number}"] = value_axis(value_title)
    sheet.figure.update_layout(bargap=0.25)
    return panel


def add_ranked_bars(
    sheet: Sheet,
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    hovers: Sequence[str],
    value_title: str,
) -> Panel:
    """Horizontal bars in the order given, the first at the top."""
    return add_bars(
        sheet,
        title,
        name_ticks(names, ""),
        values,
        hovers,
        value_title=value_title,
        horizontal=True,
        pitch=18,
        length=300,
        top_down=True,
    )
