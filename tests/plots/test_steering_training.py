"""The figure of a learned steering's training: its lines, their names and ranges."""

from __future__ import annotations

import numpy as np
from fake_steering_maps import make_training


def test_a_line_for_every_site_and_their_mean() -> None:
    training = make_training()
    figure = training.plot()
    names = [trace.name for trace in figure.data]
    assert names[:3] == ["resid_post[0]", "resid_post[1]", "resid_post[2]"]
    assert "&lt;s&gt;" in names[3] and names[4:] == ["mean", "kept share"]
    for i in range(4):
        np.testing.assert_allclose(figure.data[i].y, training.losses[:, i], rtol=1e-6)
    np.testing.assert_allclose(figure.data[4].y, training.loss, rtol=1e-6)
    np.testing.assert_allclose(figure.data[5].y, training.measures["kept share"], rtol=1e-6)
    assert [bool(trace.showlegend) for trace in figure.data] == [True] * 5 + [False]
    assert figure.layout.yaxis.range[0] == 0 and figure.layout.yaxis.range[1] > 1


def test_of_many_sites_the_first_speaks_for_all_and_hover_names_each() -> None:
    figure = make_training(5, tuple(f"resid_post[{i}]" for i in range(32))).plot()
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["each of 32 sites", "mean"]
    assert "resid_post[17]" in figure.data[17].hovertemplate


def test_one_part_is_its_own_mean_and_one_row_is_a_point() -> None:
    figure = make_training(1, ("completions",), ()).plot()
    (trace,) = figure.data
    assert trace.mode == "markers" and trace.name == "completions"
