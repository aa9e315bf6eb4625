"""Recovery of features, absorption and geometry, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_ground_truth import make_absorption, make_feature_recovery, make_geometry, make_recovery_table

from interp.errors import RecordError
from interp.plots.absorption import plot_absorption
from interp.plots.feature_recovery import MOST_FEATURES, plot_feature_recovery, plot_recovery_table
from interp.plots.geometry import plot_geometry


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def heatmap(figure):
    (found,) = [trace for trace in figure.data if trace.type == "heatmap"]
    return found


def test_matches_stand_on_the_diagonal_from_best_to_worst():
    found = make_feature_recovery()
    table = np.array(heatmap(plot_feature_recovery(found)).z)
    diagonal = np.diag(table[:, :16])
    np.testing.assert_allclose(
        np.abs(diagonal), found.matched_cosines.sort(descending=True).values, atol=1e-6
    )
    names = heatmap(plot_feature_recovery(found)).hovertext
    feature = int(found.matched_cosines.argmax())
    assert names[0][0] == f"<b>feature {feature}, latent {int(found.matched[feature])}</b>"
    assert table.shape == (16, 24)


def test_large_tables_say_what_they_leave_out():
    figure = plot_feature_recovery(make_feature_recovery(300, 200))
    assert np.array(heatmap(figure).z).shape[0] == MOST_FEATURES
    assert f"table: {MOST_FEATURES} of 200 features" in subtitle(figure)
    assert "latents without a match, the nearest ones" in subtitle(figure)


def test_points_are_features_by_their_firing():
    found = make_feature_recovery()
    cosine, f1 = [trace for trace in plot_feature_recovery(found).data if trace.type == "scatter"]
    np.testing.assert_allclose(cosine.x, found.firing)
    np.testing.assert_allclose(cosine.y, found.matched_cosines)
    np.testing.assert_allclose(f1.y, found.per_feature_f1)
    assert cosine.hovertext[3].startswith("<b>feature 3</b>")


def test_seeds_means_and_intervals_of_a_table():
    table = make_recovery_table()
    figure = plot_recovery_table(table, ("mcc", "fvu"))
    seeds, means = figure.data[0], figure.data[1]
    row = table.at("standard", "mcc")
    assert tuple(seeds.y) == row.values
    assert means.y[0] == row.mean
    assert means.error_y.array[0] == pytest.approx(row.estimate.high - row.mean)
    assert means.error_y.arrayminus[0] == pytest.approx(row.mean - row.estimate.low)
    assert len(figure.data) == 2 * 5 * 2
    # the random dictionaries stand last, and their mean is drawn across
    assert figure.data[8].x[0] == "random"
    assert figure.layout.shapes[0].y0 == table.at("random", "mcc").mean
    assert "5 seeds as points" in subtitle(figure)
    assert "1 seed as points" in subtitle(plot_recovery_table(make_recovery_table(seeds=1)))
    with pytest.raises(RecordError, match="did you mean 'mcc'"):
        plot_recovery_table(table, ("mc",))


def test_bars_of_a_parent_fill_its_rows():
    found = make_absorption()
    bars = {trace.name: np.array(trace.y) for trace in plot_absorption(found).data if trace.type == "bar"}
    np.testing.assert_allclose(sum(bars.values()), 1)
    np.testing.assert_allclose(bars["absorbed by a child's latent"], found.n_absorbed / found.n_active)
    texts = [a.text for a in plot_absorption(found).layout.annotations if a.text.isdigit()]
    assert texts == [str(n) for n in found.n_latents.tolist()]
    (points,) = [trace for trace in plot_absorption(found).data if trace.type == "scatter"]
    np.testing.assert_allclose(points.x, found.child_cosines)
    np.testing.assert_allclose(points.y, found.child_rates)


def test_histograms_and_the_spectrum():
    found = make_geometry()
    figure = plot_geometry(found)
    own, random, level, spectrum, firing = [trace for trace in figure.data if trace.type == "scatter"]
    for trace in (own, random, firing):
        assert np.sum(trace.y) / 2 == pytest.approx(1.0)
    # six latents have a duplicate, at 0.97
    at = np.flatnonzero((np.array(own.x) > 0.95) & (np.array(own.y) > 0))
    assert np.array(own.y)[at].max() == pytest.approx(6 / 200)
    np.testing.assert_allclose(spectrum.y, found.spectrum)
    assert set(level.y) == {1 / 32}
    assert "5 dead latents" in subtitle(figure)


def test_co_activation_leaves_the_diagonal_out():
    found = make_geometry()
    for measure in ("phi", "jaccard"):
        table = np.array(heatmap(plot_geometry(found, measure)).z)
        expected = getattr(found, measure).numpy()
        off = ~np.eye(24, dtype=bool)
        np.testing.assert_allclose(table[off], expected[off])
        assert np.isnan(np.diag(table)).all()
        # the record is not changed by being drawn
        assert not torch.diagonal(getattr(found, measure)).isnan().any()
    with pytest.raises(RecordError, match="unknown measure 'psi'; did you mean 'phi'"):
        plot_geometry(found, "psi")
