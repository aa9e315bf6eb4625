"""Probes, best units and perturbations, read as data."""

from __future__ import annotations

import numpy as np
import pytest
from fake_ground_truth import TARGETS, make_match, make_perturbation, make_probing, make_shortcuts

from interp.errors import RecordError
from interp.plots.perturbation import plot_probe_perturbation, plot_shortcut_removal
from interp.plots.probing import plot_attribute_match, plot_probing
from interp.results.probing import MATCH_SOURCES


def named(figure, axis):
    return {t.name: t for t in figure.data if t.name and (t.xaxis or "x") == axis}


@pytest.mark.parametrize(("metric", "at"), [("accuracy", 0), ("auc", 2)])
def test_a_panel_a_target(metric, at):
    found = make_probing()
    figure = plot_probing(found, metric)
    for i, axis in enumerate(("x", "x2", "x3", "x4")):
        curves = named(figure, axis)
        np.testing.assert_allclose(curves["latents"].y, found.latents[i, :, at, 0])
        np.testing.assert_allclose(curves["random latents"].y, found.random[i, :, at, 0])
        np.testing.assert_allclose(curves["whole activation"].y, [found.dense[i, at, 0]] * 2)
        np.testing.assert_allclose(curves["constant answer"].y, [found.constant[i, at]] * 2)
        assert tuple(curves["latents"].x) == found.ks
        assert [t.showlegend for t in curves.values()] == [i == 0] * 4
    (band,) = [t for t in figure.data if t.fill == "toself" and t.xaxis in (None, "x")]
    np.testing.assert_allclose(band.y, np.r_[found.latents[0, :, at, 1], found.latents[0, :, at, 2].flip(0)])
    with pytest.raises(RecordError, match="did you mean 'accuracy'"):
        plot_probing(found, "acuracy")


def test_one_number_of_latents_has_whiskers():
    found = make_probing(TARGETS[:1], (1,))
    curve = named(plot_probing(found), "x")["latents"]
    value, low, high = found.latents[0, 0, 0].tolist()
    assert curve.error_y.array[0] == pytest.approx(high - value)
    assert curve.error_y.arrayminus[0] == pytest.approx(value - low)
    # what does not depend on their number is still drawn across
    across = named(plot_probing(found), "x")["whole activation"]
    assert (len(across.x), across.mode) == (2, "lines")


def test_best_units_and_saying_yes():
    found = make_match()
    figure = plot_attribute_match(found)
    np.testing.assert_allclose(figure.data[0].x, found.always)
    for row, source in enumerate(MATCH_SOURCES):
        points = named(figure, "x")[source]
        np.testing.assert_allclose(points.x, found.f1[row, :, 0])
        np.testing.assert_allclose(
            points.error_x.array, (found.f1[row, :, 2] - found.f1[row, :, 0]).numpy(), atol=1e-6
        )
        assert [round(y) for y in points.y] == [0, 1, 2, 3]
    texts = named(figure, "x")["neurons"].hovertext
    assert "number 8 (low means yes)" in texts[0]
    assert "(low means yes)" not in texts[1]


def test_drops_of_the_number_asked_for():
    found = make_perturbation()
    for k in (None, 2):
        at = found.ks.index(found.ks[-1] if k is None else k)
        figure = plot_probe_perturbation(found, k)
        (table,) = [t for t in figure.data if t.type == "heatmap"]
        np.testing.assert_allclose(table.z, found.drops[at])
        assert "two values of one attribute" in table.hovertext[1][2]
        assert "two values" not in table.hovertext[0][1] + table.hovertext[1][1]
        curves = named(figure, "x2")
        np.testing.assert_allclose(curves["own probe"].y, found.own_drops.mean(1), atol=1e-6)
        np.testing.assert_allclose(curves["own less others"].y, found.scores[:, 0])
        value, low, high = found.scores[at].tolist()
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in figure.layout.title.subtitle.text
    with pytest.raises(RecordError, match="1, 2, 5, 10 latents were taken out; got k=3"):
        plot_probe_perturbation(found, 3)


def test_a_panel_a_pair():
    found = make_shortcuts()
    figure = plot_shortcut_removal(found)
    for i, axis in enumerate(("x", "x2", "x3")):
        curves = named(figure, axis)
        np.testing.assert_allclose(curves["shortcut's latents out"].y, found.after[i, :, 0])
        np.testing.assert_allclose(curves["random latents out"].y, found.random[i])
        assert set(curves["biased probe"].y) == {float(found.biased[i])}
        assert set(curves["unbiased probe"].y) == {float(found.oracle[i])}
    assert figure.layout.annotations[0].text == "sentiment=positive, not topic=food"
