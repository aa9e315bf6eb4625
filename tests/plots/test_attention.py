"""Attention figures, read as data."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import RecordError
from interp.plots import plot_attention


def parts(figure):
    """The mosaic of thumbnails, the unseen markers over them, and the large maps."""
    mosaic, markers, *large = figure.data
    assert (mosaic.type, markers.type) == ("heatmap", "scatter")
    return mosaic, markers, large


def test_thumbnails_are_the_patterns_with_layer_0_below_and_the_first_destination_above(make_patterns):
    patterns = make_patterns(3, 4, 7)
    figure = plot_attention(patterns)
    mosaic, _, _ = parts(figure)
    z = np.asarray(mosaic.z, dtype=float)
    assert z.shape == (21, 28)
    for layer in range(3):
        for head in range(4):
            for dest in range(7):
                row = layer * 7 + (6 - dest)
                drawn = z[row, head * 7 : head * 7 + 7]
                np.testing.assert_allclose(drawn, patterns.patterns[layer, head, dest].numpy(), atol=1e-6)
    assert figure.layout.yaxis.range == (-0.5, 20.5)
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2"]
    assert list(figure.layout.yaxis.tickvals) == [3, 10, 17]


def test_markers_stand_over_their_thumbnails(make_patterns):
    patterns = make_patterns(2, 3, 5, layers=(4, 8))
    _, markers, _ = parts(plot_attention(patterns))
    assert list(markers.x) == [2, 7, 12, 2, 7, 12]
    assert list(markers.y) == [2, 2, 2, 7, 7, 7]
    assert list(markers.customdata) == list(range(6))
    weights = patterns.patterns[1, 2, 1:]
    dest, src = divmod(int(weights.argmax()), 5)
    text = markers.hovertext[5]
    assert text.startswith("<b>L8H2</b>")
    assert f"{float(weights.max()):.2f}: {dest + 1} " in text
    assert f"→ {src} " in text


def test_one_head_is_large_and_the_menu_shows_each(make_patterns):
    patterns = make_patterns(2, 3, 5, layers=(4, 8))
    figure = plot_attention(patterns, layer=8, head=1)
    _, _, large = parts(figure)
    (menu,) = figure.layout.updatemenus
    assert [trace.name for trace in large] == ["L4H0", "L4H1", "L4H2", "L8H0", "L8H1", "L8H2"]
    assert [trace.visible for trace in large] == [False] * 4 + [True, False]
    assert menu.active == 4
    assert [button.label for button in menu.buttons] == [trace.name for trace in large]
    for number, button in enumerate(menu.buttons):
        states, which = button.args
        assert list(which) == [2, 3, 4, 5, 6, 7]
        assert [i for i, state in enumerate(states["visible"]) if state] == [number]
    np.testing.assert_allclose(np.asarray(large[4].z, dtype=float), patterns.at(8, 1).numpy(), atol=1e-6)


def test_rows_are_destinations_from_the_top(make_patterns):
    figure = plot_attention(make_patterns(1, 1, 6))
    assert figure.layout.yaxis2.range == (5.5, -0.5)
    assert figure.layout.xaxis2.range == (-0.5, 5.5)
    assert figure.layout.yaxis2.title.text == "destination"
    assert figure.layout.xaxis2.title.text == "source"
    assert figure.layout.coloraxis.cmin == 0


def test_the_first_head_by_default_and_an_error_for_none_such(make_patterns):
    patterns = make_patterns(2, 3, 5, layers=(4, 8))
    assert plot_attention(patterns).layout.updatemenus[0].active == 0
    assert plot_attention(patterns, head=2).layout.updatemenus[0].active == 2
    with pytest.raises(RecordError, match="no pattern of L0H0 here"):
        plot_attention(patterns, layer=0)


def test_long_prompts_have_coarse_thumbnails_that_hide_no_peak(make_patterns):
    patterns = make_patterns(1, 2, 101)
    mosaic, _, large = parts(plot_attention(patterns))
    z = np.asarray(mosaic.z, dtype=float)
    block = 3  # 101 tokens in at most 48 cells
    assert z.shape == (34, 68)
    weights = patterns.patterns[0, 1].numpy()
    for row, column in ((0, 0), (10, 4), (33, 33)):
        naive = weights[row * block : (row + 1) * block, column * block : (column + 1) * block].max()
        assert z[33 - row, 34 + column] == pytest.approx(naive, abs=1e-6)
    assert np.asarray(large[0].z).shape == (101, 101)
