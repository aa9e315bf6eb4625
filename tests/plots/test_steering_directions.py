"""Directions, planted recoveries, value vectors and relation neurons, read as data."""

from __future__ import annotations

import numpy as np
import pytest
from fake_steering_directions import METHODS, make_directions, make_planted, make_relations, make_values

from interp.errors import RecordError
from interp.plots import (
    plot_planted_recovery,
    plot_relation_neurons,
    plot_steering_directions,
    plot_value_vectors,
)


def named(figure):
    return {trace.name: trace for trace in figure.data if trace.name}


def test_cosines_with_the_first_direction_at_the_top():
    found = make_directions(sites=("resid_post[1]", "mlp_post[1]"))
    figure = plot_steering_directions(found)
    (table,) = [t for t in figure.data if t.type == "heatmap"]
    np.testing.assert_allclose(table.z, found.cosines)
    assert figure.layout.yaxis.range == (11.5, -0.5)
    assert figure.layout.coloraxis.cmax == 1
    assert "no cosine: different spaces" in table.hovertext[0][7]
    assert f"{float(found.cosines[0, 1]):z.3f}" in table.hovertext[0][1]
    assert "grey: directions of different spaces" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "grey" not in plot_steering_directions(make_directions()).layout.title.subtitle.text


def test_quality_stands_level_with_the_rows():
    found = make_directions()
    figure = plot_steering_directions(found)
    series = named(figure)
    for name, values, shift in (
        ("AUC on held-out prompts", found.auc, -0.17),
        ("stability", found.stability, 0.17),
    ):
        points = series[name]
        np.testing.assert_allclose(points.x, values[:, 0], rtol=1e-6)
        np.testing.assert_allclose(points.error_x.array, values[:, 2] - values[:, 0], atol=1e-6)
        np.testing.assert_allclose(points.error_x.arrayminus, values[:, 0] - values[:, 1], atol=1e-6)
        np.testing.assert_allclose(points.y, np.arange(6) + shift)
    assert figure.layout.yaxis2.range == (5.5, -0.5)
    heights = [figure.layout[axis].domain for axis in ("yaxis", "yaxis2")]
    np.testing.assert_allclose(heights[0], heights[1])


def test_a_curve_a_method_over_what_was_planted():
    found = make_planted()
    figure = plot_planted_recovery(found)
    curves = named(figure)
    assert list(curves) == list(METHODS)
    for i, method in enumerate(METHODS):
        assert tuple(curves[method].x) == (1, 2, 4, 8)
        np.testing.assert_allclose(curves[method].y, found.cosines[i].mean(-1), rtol=1e-5)
    bands = [t for t in figure.data if t.fill == "toself"]
    assert len(bands) == len(METHODS)
    low, high = found.intervals()[1, :, 1], found.intervals()[1, :, 2]
    np.testing.assert_allclose(bands[1].y, np.r_[low, high.flip(0)], rtol=1e-5)
    assert figure.layout.yaxis.range == (0, 1.02)
    one = plot_planted_recovery(make_planted(("pca",), (4.0,), 1))
    assert not [t for t in one.data if t.fill == "toself"]
    assert "1 seed" in one.layout.title.subtitle.text


def test_scores_and_the_tokens_that_name_a_neuron():
    found = make_values(against=(" bad",))
    figure = plot_value_vectors(found)
    bars, texts = figure.data
    np.testing.assert_allclose(bars.x, found.score, rtol=1e-6)
    assert list(bars.y) == list(found.names)
    assert bars.marker.color[-1] != bars.marker.color[0]
    assert texts.text[0].startswith("·good  ·&lt;b&gt;  &#36;x&#36;  ↵")
    assert texts.y == (0, 1, 2, 3, 4, 5, 6, 7)
    assert figure.layout.yaxis.domain == figure.layout.yaxis2.domain
    assert "against: ·bad" in figure.layout.title.subtitle.text
    many = plot_value_vectors(make_values(70, tuple(f"w{i}" for i in range(40))))
    assert len(many.data[0].x) == 30
    subtitle = many.layout.title.subtitle.text.replace("<br>", " ")
    assert "best 30 of 70 neurons" in subtitle and "and 34 more" in subtitle


@pytest.mark.parametrize("k", [None, 4])
def test_accuracy_lost_of_the_number_asked_for(k):
    found = make_relations()
    at = 2 if k is None else 0
    figure = plot_relation_neurons(found, k)
    (table,) = [t for t in figure.data if t.type == "heatmap"]
    np.testing.assert_allclose(table.z, found.base - found.accuracy[at], atol=1e-6)
    assert f"{float(found.accuracy[at, 0, 1]):.3f} after" in table.hovertext[0][1]
    curves = named(figure)
    np.testing.assert_allclose(curves["own relation"].y, found.within, atol=1e-6)
    np.testing.assert_allclose(curves["other relations"].y, found.across, atol=1e-6)
    np.testing.assert_allclose(curves["random neurons"].y, found.random_within, atol=1e-6)
    assert "4 neurons" in curves["own relation"].hovertext[0]
    with pytest.raises(RecordError, match="4, 16, 64 neurons were zeroed; got k=5"):
        plot_relation_neurons(found, 5)
