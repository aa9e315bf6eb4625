"""Figures of gated steering say what their records hold."""

from __future__ import annotations

import numpy as np
import pytest
from fake_steering_gate import fake_condition, fake_controller, fake_effects


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_a_condition_shows_its_curve_and_its_place():
    found = fake_condition()
    figure = found.plot()
    curve = next(trace for trace in figure.data if trace.line.shape == "hv")
    np.testing.assert_allclose([curve.x, curve.y], found.roc)
    place = next(
        trace for trace in figure.data if trace.mode == "markers" and trace.error_y.array is not None
    )
    assert (place.x[0], place.y[0]) == (found.fpr.value, found.tpr.value)
    assert place.error_y.arrayminus[0] == pytest.approx(found.tpr.value - found.tpr.low)
    for bars, values in zip(named(figure, "should be open (60)"), [found.yes], strict=True):
        assert sum(bars.y) == pytest.approx(1)
        assert np.dot(bars.x, bars.y) == pytest.approx(float(values.mean()), abs=0.15)
    assert figure.layout.shapes[0].x0 == found.threshold
    sites = figure.data[-1]
    np.testing.assert_allclose(sites.x, found.site_auc[:, 0])
    assert len(set(sites.marker.color)) == 2


def test_one_site_needs_no_panel_of_sites():
    assert len(fake_condition(sites=1).plot().data) == len(fake_condition().plot().data) - 1


def test_effects_stand_in_the_rows_of_their_steerings():
    found = fake_effects()
    figure = found.plot()
    assert len(figure.data) == 6
    for panel, kind in enumerate(("effect", "kl", "gate")):
        for at, side in enumerate(("act", "leave")):
            trace = figure.data[2 * panel + at]
            means = [found.mean(arm, kind, side) for arm in found.arms]
            np.testing.assert_allclose(trace.x, [e.value for e in means])
            np.testing.assert_allclose(trace.error_x.array, [e.high - e.value for e in means])
            assert [round(y) for y in trace.y] == [0, 1, 2, 3]
    assert figure.layout.yaxis.ticktext[0] == "always on"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2


def test_a_history_shows_every_curve_once():
    found = fake_controller()
    figure = found.plot()
    assert len(figure.data) == 1 + 1 + 2 + 2 + 3
    np.testing.assert_allclose(figure.data[0].y, found.loss)
    np.testing.assert_allclose(figure.data[3].y, found.leave_kl)
    np.testing.assert_allclose(figure.data[-1].y, found.weights[:, 2])
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == sorted(["prompts to act on", "prompts to leave alone", *found.channels])


def test_what_was_not_measured_is_said():
    figure = fake_controller(objective="labels").plot()
    assert len(figure.data) == 1 + 2 + 3
    assert "not measured: KL to the unsteered model" in figure.layout.title.subtitle.text.replace("<br>", " ")
    one = fake_controller(n=1, channels=1).plot()
    assert "one step, whose weight is 1" in one.layout.title.subtitle.text.replace("<br>", " ")
    many = fake_controller(channels=26).plot()
    assert "weights of 12 of 26 steps" in many.layout.title.subtitle.text.replace("<br>", " ")
