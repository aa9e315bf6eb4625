"""Heads over training, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_reuse import make_development

from interp.plots import plot_head_development
from interp.results import Graph


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def lines(figure, axis):
    return [t for t in figure.data if t.type == "scatter" and (t.xaxis or "x") == axis]


def test_lines_are_the_metric_the_effects_and_the_ranks():
    found = make_development()
    figure = plot_head_development(found)
    clean, corrupted = lines(figure, "x")
    assert list(clean.x) == [100, 200, 400]
    assert list(clean.y) == pytest.approx(found.clean.tolist())
    assert list(corrupted.y) == pytest.approx(found.corrupted.tolist())
    assert "accuracy 50.0%" in clean.hovertext[1]
    heads = {t.name: t for t in lines(figure, "x2")}
    # L0H1 never has an effect of 0.1 before the last step
    assert list(heads["L1H3 appears"].y) == pytest.approx(found.table()[:, 7].tolist())
    assert list(heads["L1H3 appears"].error_y.array) == pytest.approx([0.02] * 3)
    assert "L0H0 weakens" in heads
    assert (
        heads["L1H3 appears"]
        .hovertext[2]
        .startswith("<b>L1H3</b>: appears, from step 200<br>step 400: 0.800")
    )
    ranks = lines(figure, "x3")
    assert [t.name for t in ranks] == ["effect", "role &lt;0&gt;", "role &lt;1&gt;"]
    assert list(ranks[0].y) == pytest.approx(found.agreement_with_last().tolist(), nan_ok=True)


def test_heads_without_an_effect_are_grey_and_named_once():
    found = make_development(layers=3, heads=6, roles=0, thresholds={"effect": 0.5})
    grey = [t for t in lines(plot_head_development(found), "x2") if t.name == "other heads"]
    assert len(grey) == sum(course == "absent" for course in found.courses().values()) > 1
    assert [t.showlegend for t in grey] == [True] + [False] * (len(grey) - 1)
    assert len({t.line.color for t in grey}) == 1


def test_maps_are_checkpoints_by_heads_with_their_course():
    found = make_development()
    figure = plot_head_development(found)
    maps = [t for t in figure.data if t.type == "heatmap"]
    assert [t.name for t in maps] == ["effect", "role &lt;0&gt;", "role &lt;1&gt;"]
    np.testing.assert_allclose(np.asarray(maps[0].z, float), found.table().numpy())
    assert figure.layout.xaxis4.ticktext[0] == "L0H0 ↓"
    assert figure.layout.xaxis4.ticktext[7] == "L1H3 +"
    assert maps[1].coloraxis == maps[2].coloraxis != maps[0].coloraxis
    assert "a head has a score from 0.1 for effect, 0.3 for role &lt;0&gt;" in subtitle(figure)


def test_of_many_heads_the_strongest_are_mapped():
    figure = plot_head_development(make_development(layers=6, heads=12, roles=1))
    assert np.asarray(next(t for t in figure.data if t.type == "heatmap").z).shape == (3, 48)
    assert "the 48 heads of 72" in subtitle(figure)
    colored = [t for t in lines(figure, "x2") if t.name != "other heads"]
    assert len(colored) == 12
    assert len({(t.line.color, t.line.dash) for t in colored}) == 12


def test_steps_that_span_powers_of_ten_are_drawn_by_them():
    assert plot_head_development(make_development()).layout.xaxis.type == "linear"
    wide = plot_head_development(make_development((1, 10, 1000)))
    assert wide.layout.xaxis.type == wide.layout.xaxis3.type == "log"
    assert plot_head_development(make_development((0, 10, 1000))).layout.xaxis.type == "linear"


def test_edges_are_ranked_beside_heads():
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=4, d_mlp=0)
    edges = torch.rand(3, graph.n_edges, generator=torch.Generator().manual_seed(0))
    found = make_development(graph=graph, edges=edges)
    last = lines(plot_head_development(found), "x3")[-1]
    assert last.name == "edges"
    assert list(last.y) == pytest.approx(found.agreement_with_last("edges").tolist())
