"""The dose of a steering, read as data."""

from __future__ import annotations

import numpy as np
import pytest
from fake_steering_dose import fake_calibration

from interp.plots import plot_dose_calibration


def traces(figure, mode):
    return [trace for trace in figure.data if trace.mode == mode and trace.hoverinfo != "skip"]


def test_points_are_what_was_measured_and_the_curve_is_what_is_looked_up():
    found = fake_calibration()
    figure = plot_dose_calibration(found)
    (points,) = traces(figure, "markers")
    assert list(points.x) == found.strengths.tolist()
    assert list(points.y) == found.kl.tolist()
    curve = next(trace for trace in figure.data if trace.line.dash == "solid")
    for x, y in list(zip(curve.x, curve.y, strict=True))[::7]:
        assert y == pytest.approx(found.dose_at(x))
    band = next(trace for trace in figure.data if trace.fill == "toself")
    n = len(band.x) // 2
    assert (np.asarray(band.y[:n]) <= np.asarray(band.y[n:])[::-1] + 1e-12).all()


def test_round_doses_stand_where_they_are_looked_up_on_both_sides():
    found = fake_calibration()
    (doses,) = traces(plot_dose_calibration(found), "markers+text")
    assert list(doses.y) == [0.2, 0.5, 1.0, 2.0] * 2
    assert list(doses.x) == [found.strength_for(dose) for dose in (-0.2, -0.5, -1, -2, 0.2, 0.5, 1, 2)]
    assert list(doses.text) == ["0.2", "0.5", "1", "2"] * 2
    assert doses.hovertext[4] == f"dose +0.2 nats: strength {found.strength_for(0.2):.4g}"


def test_beyond_a_fall_it_is_dotted():
    found = fake_calibration((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 0.5, 4.0))
    figure = plot_dose_calibration(found)
    ends = {trace.line.dash: (min(trace.x), max(trace.x)) for trace in figure.data if trace.line.dash}
    assert ends == {"solid": (0.0, 1.0), "dot": (1.0, 3.0)}
    (doses,) = traces(figure, "markers+text")
    assert max(doses.y) == 1.0


def test_it_says_what_it_was_measured_on():
    figure = plot_dose_calibration(fake_calibration())
    assert "4,096 tokens of generated text" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "nats a token" in figure.layout.yaxis.title.text
