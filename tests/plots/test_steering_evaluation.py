"""Dose-response figures hold the record's numbers, controls as a band, and whiskers as intervals."""

from __future__ import annotations

import numpy as np
import pytest
from fake_steering_evaluation import ANY_MODEL, fake_evaluation, fake_off_target


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_a_line_a_method_in_every_panel_with_its_interval():
    found = fake_evaluation()
    figure = found.plot()
    # ten measures but the KL, and the effect against its loss
    lines = traces(figure, "mean-difference")
    assert len(lines) == 10
    at = found.values[0, :, 0].numpy()
    np.testing.assert_allclose(lines[0].y, at[:, 0])
    np.testing.assert_allclose(lines[0].error_y.array, at[:, 2] - at[:, 0], rtol=1e-5)
    np.testing.assert_allclose(lines[0].error_y.arrayminus, at[:, 0] - at[:, 1], rtol=1e-5)
    np.testing.assert_allclose(lines[0].x, found.doses, rtol=0.1)
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "controls",
        "mean-difference",
        "pca &amp; &#36;co",
        "&lt;b&gt;lda",
    ]


def test_the_band_goes_from_the_lowest_to_the_highest_end_of_all_controls():
    found = fake_evaluation()
    figure = found.plot()
    band = next(trace for trace in figure.data if trace.fill and trace.fill != "none")
    controls = found.values[3:, :, 0].numpy()
    ys = np.asarray(band.y, dtype=float)
    assert ys.min() == pytest.approx(controls[..., 1].min()) and ys.max() == pytest.approx(
        controls[..., 2].max()
    )
    mean = traces(figure, "controls")[0]
    np.testing.assert_allclose(mean.y, controls[..., 0].mean(0))


def test_the_effect_stands_against_the_rise_of_the_loss():
    found = fake_evaluation()
    trade = [t for t in traces(found.plot(), "mean-difference") if not t.error_y.array]
    assert len(trade) == 1
    loss = found.measures.index("loss")
    np.testing.assert_allclose(trade[0].x, found.shifts[0, :, loss, 0])
    np.testing.assert_allclose(trade[0].y, found.values[0, :, 0, 0])


def test_losses_are_drawn_as_rises_and_shares_from_0_to_1():
    found = fake_evaluation(controls=(), measures=ANY_MODEL)
    figure = found.plot()
    assert not traces(figure, "controls")
    rises = [a.text for a in figure.layout.annotations if a.text.startswith("rise of")]
    assert rises == ["rise of loss on neutral text", "rise of entropy on neutral text"]
    np.testing.assert_allclose(traces(figure, "mean-difference")[2].y, found.shifts[0, :, 1, 0])
    world = fake_evaluation().plot()
    assert tuple(world.layout.yaxis.range) == (-0.03, 1.03)


def test_one_dose_has_its_whiskers_side_by_side_inside_the_axis():
    figure = fake_evaluation(doses=(0.3,)).plot()
    low, high = figure.layout.xaxis.range
    places = [float(np.log10(t.x[0])) for t in figure.data if t.name != "controls" and t.error_y.array]
    assert all(low < place < high for place in places) and len({round(p, 6) for p in places}) == 3


def test_a_dose_out_of_reach_is_left_out_and_said():
    figure = fake_evaluation(unreached=True).plot()
    assert "not reached: mean-difference at 1 nats" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert np.isnan(traces(figure, "mean-difference")[0].y[-1])


def test_the_matrix_frames_what_is_on_target():
    found = fake_off_target()
    figure = found.plot()
    (heat,) = (trace for trace in figure.data if trace.type == "heatmap")
    np.testing.assert_allclose(heat.z, found.shifts[..., 0], rtol=1e-5)
    frames = [shape for shape in figure.layout.shapes if shape.line.width == 2]
    assert [(shape.x0, shape.y0) for shape in frames] == [(i - 0.5, i - 0.5) for i in range(3)]
    assert "[" in heat.hovertext[0][0] and "unsteered" in heat.hovertext[0][0]
    assert "no strength reached" in fake_off_target(hole=True).plot().layout.title.subtitle.text
