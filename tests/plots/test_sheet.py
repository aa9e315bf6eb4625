"""Placing panels in pixels."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.plots.scales import signed_scale
from interp.plots.sheet import COLOR_BAR, EDGE, MAX_WIDTH, MIN_WIDTH, Sheet

panels = st.lists(
    st.tuples(
        st.integers(20, 1500),
        st.integers(10, 400),
        st.integers(0, 150),
        st.booleans(),
        st.booleans(),
        st.text(max_size=30),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(panels, st.text(max_size=300))
def test_slots_never_touch_and_fit(wanted, words):
    sheet = Sheet()
    color_axis = sheet.add_color_axis(signed_scale([np.ones(1)], "t"))
    placed = []
    for width, height, room, colored, new_band, title in wanted:
        if new_band:
            sheet.start_band()
        panel = sheet.add_panel(title, width, height, left=room, bottom=room)
        panel.color_axis = color_axis if colored or not placed else None
        placed.append(panel)
    figure = sheet.finish("title " + words, words)
    width, height = figure.layout.width, figure.layout.height
    slots = [
        (p.x0 - p.left, p.y0 - p.top, p.x0 + p.width + p.right, p.y0 + p.height + p.bottom) for p in placed
    ]
    assert all(
        left >= EDGE and top > 0 and right <= width and bottom <= height for left, top, right, bottom in slots
    )
    for a, b in itertools.combinations(slots, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    alone = max(p.slot_width for p in placed)
    assert width <= max(MAX_WIDTH, alone + COLOR_BAR, MIN_WIDTH) + 2 * EDGE
    for panel in placed:
        x = figure.layout["xaxis" + panel.xaxis[1:]].domain
        assert x[0] * width == np.float64(panel.x0).item() or abs(x[0] * width - panel.x0) < 1e-6
        assert abs((x[1] - x[0]) * width - panel.width) < 1e-6


def test_long_titles_are_wrapped_and_escaped():
    sheet = Sheet()
    sheet.add_panel("<i>", 100, 100)
    sheet.add_note("a note")
    sheet.add_note("a note")
    figure = sheet.finish("of <z> " * 30, "from & to " * 30)
    title, subtitle = figure.layout.title.text, figure.layout.title.subtitle.text
    assert title.count("<br>") >= 2
    assert "&lt;z&gt;" in title
    assert "&amp;" in subtitle
    assert subtitle.count("a note") == 1
    assert figure.layout.annotations[0].text == "&lt;i&gt;"
    lines = title.split("<br>"), subtitle.split("<br>")
    (first,) = [figure.layout.yaxis.domain]
    header = (1 - first[1]) * figure.layout.height
    assert header >= 14 + 22 * len(lines[0]) + 17 * len(lines[1])


def test_a_row_takes_as_many_panels_as_fit():
    sheet = Sheet()
    placed = [sheet.add_panel("", 300, 100, left=50, right=16) for _ in range(4)]
    sheet.finish("t", "s")
    assert [p.y0 == placed[0].y0 for p in placed] == [True, True, True, False]
    assert placed[3].x0 == placed[0].x0


def test_a_legend_stands_beside_the_panels_it_belongs_to():
    sheet = Sheet()
    panel = sheet.add_panel("a", 300, 100, left=50, right=16)
    sheet.add_legend(("one", "another name"))
    sheet.start_band()
    below = sheet.add_panel("b", 300, 100)
    figure = sheet.finish("t", "s")
    legend = figure.layout.legend
    assert legend.x * figure.layout.width >= panel.x0 + panel.width + panel.right
    assert abs((1 - legend.y) * figure.layout.height - panel.y0) < 1e-6
    assert "xaxis3" not in figure.layout
    assert below.number == 2


def test_a_long_legend_makes_room_for_itself():
    sheet = Sheet()
    sheet.add_panel("a", 300, 30)
    sheet.add_legend([str(i) for i in range(30)])
    sheet.start_band()
    below = sheet.add_panel("b", 300, 100)
    sheet.add_legend(["only"], "legend2")
    figure = sheet.finish("t", "s")
    bottom = (1 - figure.layout.legend.y) * figure.layout.height + 30 * 20
    assert below.y0 - below.top >= bottom - 1e-6
    assert figure.layout.legend2.y != figure.layout.legend.y
