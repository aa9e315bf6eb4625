"""Figures of overlap, cross-task ablation and repair, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_reuse import make_cross, make_overlap, make_repair

from interp.errors import RecordError
from interp.plots import plot_circuit_overlap, plot_cross_ablation, plot_repair


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def of_type(figure, kind, axis=None):
    return [t for t in figure.data if t.type == kind and axis in (None, t.xaxis or "x")]


def test_tables_of_overlap_are_both_measures_at_the_cut():
    found = make_overlap()
    figure = plot_circuit_overlap(found, cut=1)
    for trace, measure in zip(of_type(figure, "heatmap"), ("iou", "coefficient"), strict=True):
        np.testing.assert_allclose(np.asarray(trace.z, float), found.matrix(measure, 1).numpy())
    hover = of_type(figure, "heatmap")[0].hovertext[0][1]
    assert hover.startswith(
        "<b>ioi and &lt;b&gt;gt&lt;/b&gt; &amp; co</b>, 5 % of edges<br>5 edges shared of 65 and 66"
    )
    assert "chance, same sizes: 2 shared (1 to 3)" in hover
    assert "tables: 5 % of edges" in subtitle(figure)


def test_curves_of_overlap_are_drawn_with_their_bands():
    found = make_overlap()
    figure = plot_circuit_overlap(found)
    curves = [t for t in of_type(figure, "scatter") if t.mode == "lines+markers"]
    bands = [t for t in of_type(figure, "scatter") if t.fill == "toself"]
    lines = [t for t in of_type(figure, "scatter") if t.line.dash == "dash"]
    assert len(curves) == len(bands) == len(lines) == 3
    low, _, high = found.band("iou", "stratified")
    upper = found.band("iou", "uniform")[2]
    for pair in range(3):
        assert list(curves[pair].x) == [0.01, 0.05, 0.2]
        assert list(curves[pair].y) == pytest.approx(found.iou[:, pair].tolist())
        assert list(bands[pair].y) == pytest.approx([*low[:, pair].tolist(), *high[:, pair].flip(0).tolist()])
        assert list(lines[pair].y) == pytest.approx(upper[:, pair].tolist())
    named = [t.name for t in figure.data if t.type == "scatter" and t.showlegend]
    assert len(named) == 3
    assert list(figure.layout.xaxis3.ticktext) == ["1%", "5%", "20%"]


def test_the_first_cut_without_an_empty_circuit_is_shown():
    found = make_overlap()
    sizes, shared = found.sizes.clone(), found.shared.clone()
    sizes[0, 2], shared[0, 1:] = 0, 0
    assert "tables: 5 % of edges" in subtitle(plot_circuit_overlap(make_overlap(sizes=sizes, shared=shared)))
    nothing = make_overlap(2, (0.1,), sizes=torch.zeros(1, 2).int(), shared=torch.zeros(1, 1).int())
    assert "no value where both circuits are empty" in subtitle(plot_circuit_overlap(nothing))
    with pytest.raises(RecordError, match="cuts 0 to 2"):
        plot_circuit_overlap(found, cut=3)


def test_a_single_cut_has_a_row_a_pair():
    found = make_overlap(
        3, (float("nan"),), cut_by="circuit", sizes=torch.full((1, 3), 9), shared=torch.full((1, 3), 4)
    )
    figure = plot_circuit_overlap(found)
    *chance, own = of_type(figure, "scatter")
    assert len(chance) == 2
    assert list(own.x) == pytest.approx([4 / 14] * 3)
    low, median, high = (part[0].numpy() for part in found.band("iou", "stratified"))
    np.testing.assert_allclose(chance[1].error_x.array, high - median, rtol=1e-5)
    np.testing.assert_allclose(chance[1].error_x.arrayminus, median - low, rtol=1e-5)


def test_of_many_pairs_the_closest_are_drawn():
    figure = plot_circuit_overlap(make_overlap(8))
    assert len([t for t in of_type(figure, "scatter") if t.mode == "lines+markers"]) == 12
    assert "12 of 28 pairs" in subtitle(figure)


def test_cross_ablation_shows_both_acts_and_random_circuits():
    found = make_cross(2, 3)
    figure = plot_cross_ablation(found)
    first, second = of_type(figure, "heatmap")
    np.testing.assert_allclose(np.asarray(first.z, float), found.knocked_out.numpy())
    np.testing.assert_allclose(np.asarray(second.z, float), found.kept.numpy())
    assert first.coloraxis == second.coloraxis
    mean = f"{float(found.random_mean[1, 1, 2]):.2f}"
    assert second.text[1][2] == f"1.20<br>({mean})"
    assert first.text[0][0].startswith("−0.20<br>(")
    hover = second.hovertext[1][2]
    assert "performance 1.200 [1.100, 1.400]" in hover
    # 0 + 1.2 times the way from 0 to 3
    assert "logit difference 3.6 (whole model 3, ablated 0)" in hover
    assert "as many edges on random ways" in hover
    assert "1 = the whole model, 0 = everything ablated" in subtitle(figure)
    plain = plot_cross_ablation(make_cross(2, 2, 0, level="heads"))
    assert of_type(plain, "heatmap")[0].text[0][0] == "−0.20"
    assert "random" not in subtitle(plain)


def test_repair_shows_means_draws_and_prompts():
    found = make_repair()
    figure = plot_repair(found)
    draws = [t for t in of_type(figure, "scatter", "x") if len(t.y) == 4 and t.marker.size == 5]
    (means,) = [t for t in of_type(figure, "scatter", "x") if t.marker.size == 11]
    assert list(means.y) == pytest.approx([0, 1, 0, 1.2], abs=1e-6)
    assert list(means.error_y.array) == pytest.approx([0, 0.25, 0, 0])
    assert "gain 1 [0.75, 1.25]" in means.hovertext[1]
    assert "p = 0.2" in means.hovertext[2]
    np.testing.assert_allclose(draws[0].y, found.random_heads[0].mean(-1).numpy(), atol=1e-6)
    prompts = of_type(figure, "scatter", "x3")[-1]
    np.testing.assert_allclose(prompts.x, found.before[0].numpy())
    np.testing.assert_allclose(prompts.y, found.after[0].numpy())
    assert list(figure.layout.xaxis.ticktext) == ["as it is", "repaired", "other heads", "other tokens"]


def test_attention_moved_is_a_row_each():
    figure = plot_repair(make_repair(moves=40))
    before, after = of_type(figure, "scatter", "x4")[-2:]
    assert list(before.x) == [0.1] * 30
    assert list(after.x) == [0.9] * 30
    assert before.y[0] == "L0H0 END to S&lt;0&gt;"
    assert "the first 30 of 40 moves" in subtitle(figure)


def test_without_controls_two_conditions_are_left():
    figure = plot_repair(make_repair(("diff",), draws=0))
    assert list(figure.layout.xaxis.ticktext) == ["as it is", "repaired"]
    assert "draws" not in subtitle(figure)
