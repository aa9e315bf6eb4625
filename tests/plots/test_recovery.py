"""Recovery of known circuits, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_circuits import GPT2, PLAIN
from fake_recovery import make_recovery

from interp.plots import plot_recovery


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def curves(figure, axis):
    return {t.name.split(":")[0]: t for t in figure.data if t.name and (t.xaxis or "x") == axis}


def test_areas_are_those_of_the_record():
    found = make_recovery()
    figure = plot_recovery(found)
    for kind, ranking in (("edges", found.edges), ("nodes", found.nodes)):
        roc, steps = curves(figure, "x")[kind], curves(figure, "x2")[kind]
        assert np.trapezoid(roc.y, roc.x) == pytest.approx(ranking.auroc)
        assert roc.name == f"{kind}: area {ranking.auroc:.3f}"
        assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
        # drawn up or down first, so the height of each step is its end's
        assert steps.line.shape == "vh"
        assert (np.diff(steps.x) * np.array(steps.y)[1:]).sum() == pytest.approx(ranking.average_precision)
        assert steps.name == f"{kind}: average precision {ranking.average_precision:.3f}"


def test_points_say_which_edge_they_add():
    found = make_recovery()
    roc, steps = (curves(plot_recovery(found), axis)["edges"] for axis in ("x", "x2"))
    frame = found.to_frame()
    assert roc.hovertext[0] == "nothing taken yet"
    assert steps.hovertext[0] == steps.hovertext[1] == roc.hovertext[1]
    shown = frame.edge[4].replace("<", "&lt;").replace(">", "&gt;")
    assert roc.hovertext[5].startswith(f"<b>{shown}</b><br>magnitude {frame.magnitude[4]:.3g}<br>")
    assert roc.hovertext[5].endswith(f"{int(frame.is_true[:5].sum())} true of the first 5")


def test_equal_scores_are_one_step():
    figure = plot_recovery(make_recovery(magnitudes=torch.zeros(PLAIN.n_edges)))
    roc = curves(figure, "x")["edges"]
    assert list(roc.x) == list(roc.y) == [0, 1]
    assert roc.hovertext[1] == "<b>262 of equal score</b><br>magnitude 0<br>12 true of the first 262"


def test_chance_is_dotted():
    found = make_recovery()
    dotted = [t for t in plot_recovery(found).data if t.line.dash == "dot"]
    assert [(t.xaxis, list(t.y)) for t in dotted] == [
        ("x", [0, 1]),
        ("x2", [pytest.approx(12 / 262)] * 2),
        ("x2", [pytest.approx(found.nodes.n_true / found.nodes.n)] * 2),
    ]


def test_many_edges_are_drawn_where_the_curves_turn():
    found = make_recovery(GPT2, 600)
    figure = plot_recovery(found)
    roc, steps = (curves(figure, axis)["edges"] for axis in ("x", "x2"))
    assert len(roc.x) <= 2 * 600 + 2
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(found.auroc)
    assert (np.diff(steps.x) * np.array(steps.y)[1:]).sum() == pytest.approx(found.average_precision)
    assert (roc.x[-1], roc.y[-1]) == (1, 1)


def test_the_subtitle_tells_what_was_found():
    found = make_recovery()
    text = subtitle(plot_recovery(found))
    assert f"12 of 262 edges are true · {len(found.missed)} of them not above all others" in text
    perfect = make_recovery(magnitudes=found.is_true.float())
    assert "none of them not above all others" in subtitle(plot_recovery(perfect))
    everywhere = make_recovery(is_true=torch.arange(PLAIN.n_edges) != 0)
    assert "all nodes are true, so they are not drawn" in subtitle(plot_recovery(everywhere))
    assert set(curves(plot_recovery(everywhere), "x")) == {"edges"}
