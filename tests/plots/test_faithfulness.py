"""Faithfulness curves, read as data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_checks import UNDEFINED, make_faithfulness

from interp.plots import plot_faithfulness


def named(figure):
    return [trace for trace in figure.data if trace.showlegend is not False]


def line(figure, start):
    return next(trace for trace in named(figure) if trace.name.startswith(start))


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_lines_are_faithfulness_over_the_edges_that_circuits_have():
    found = make_faithfulness()
    figure = plot_faithfulness(found)
    for row, method in enumerate(found.methods):
        trace = line(figure, f"<b>{method}</b>")
        assert list(trace.y) == pytest.approx(found.values[row].tolist(), abs=1e-6)
        assert list(trace.x)[1:] == [3, 12, 46]
        assert trace.name == f"<b>{method}</b> · {found.describe_areas(method)}"
    assert trace.hovertext[2] == (
        "<b>eap-ig</b><br>12 of 46 edges (0.261 asked for)<br>faithfulness 0.161 [0.061, 0.361]"
        "<br>logit difference 1.322"
    )


def test_circuits_without_an_edge_stand_at_a_mark_of_their_own():
    figure = plot_faithfulness(make_faithfulness())
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert figure.layout.xaxis.type == "log"
    assert line(figure, "<b>exact").x[0] == ticks["0"] < ticks["1"]
    assert figure.layout.xaxis.range[0] < math.log10(ticks["0"])
    assert "0 edges: none of those chosen" in subtitle(figure)
    full = plot_faithfulness(make_faithfulness(counts=(3, 46)))
    assert "0" not in full.layout.xaxis.ticktext
    assert "0 edges" not in subtitle(full)


def test_bands_are_intervals_and_all_draws():
    found = make_faithfulness(("exact",), nulls=("connected",))
    bands = [trace for trace in plot_faithfulness(found).data if trace.fill == "toself"]
    null, exact = (np.split(np.asarray(band.y), 2) for band in bands)
    assert exact[0] == pytest.approx(found.low[0].numpy())
    assert exact[1][::-1] == pytest.approx(found.high[0].numpy())
    drawn = found.null_values(found.nulls[0])
    assert null[0] == pytest.approx(drawn.min(1).values.numpy(), abs=1e-6)
    assert null[1][::-1] == pytest.approx(drawn.max(1).values.numpy(), abs=1e-6)


def test_random_circuits_stand_at_the_edges_drawn_and_say_how_many_were_connected():
    found = make_faithfulness(nulls=("connected", "degree"))
    figure = plot_faithfulness(found)
    trace = line(figure, "random connected circuits")
    assert list(trace.x) == [1, 3, 12, 46]
    assert list(trace.y) == pytest.approx(found.null_values(found.nulls[0]).mean(1).tolist(), abs=1e-6)
    assert "12 edges drawn, 11 of them connected" in trace.hovertext[2]
    assert f"CPR {found.null_cpr(found.nulls[0]):.3f}" in trace.name
    matched = line(figure, "random edges, as many into each reader as eap-ig")
    assert matched.line.color == line(figure, "<b>eap-ig").line.color
    assert matched.line.dash != trace.line.dash


def test_whole_model_and_nothing_are_marked():
    figure = plot_faithfulness(make_faithfulness())
    assert [shape.y0 for shape in figure.layout.shapes] == [0, 1]
    texts = {note.text: note.y for note in figure.layout.annotations}
    assert texts["the whole model"] == 1
    assert texts["everything ablated"] == 0
    low, high = figure.layout.yaxis.range
    assert low < -0.2
    assert high > 1.2


def test_wide_intervals_do_not_dwarf_the_curves():
    found = make_faithfulness()
    wide = replace(found, high=torch.full_like(found.high, 900.0))
    assert plot_faithfulness(wide).layout.yaxis.range[1] < 2


def test_one_circuit_has_whiskers_and_no_areas():
    found = make_faithfulness(("toy",), (3,), nulls=("uniform",), cpr=(UNDEFINED,), cmd=(UNDEFINED,))
    figure = plot_faithfulness(found)
    trace = line(figure, "toy")
    assert trace.name == "toy"
    assert list(trace.error_y.array) == pytest.approx([0.2])
    assert not [t for t in figure.data if t.fill == "toself"]
    assert list(figure.layout.xaxis.ticktext) == ["3"]
    null = line(figure, "random edges")
    assert trace.x[0] < null.x[0] < 3.2
    assert "whiskers" in subtitle(figure)
    assert "CPR" not in subtitle(figure)


def test_methods_beyond_the_colours_differ_by_marker():
    names = tuple(f"m{i}" for i in range(20))
    drawn = [
        t for t in named(plot_faithfulness(make_faithfulness(names, nulls=()))) if t.name.startswith("<b>")
    ]
    assert len({(t.line.color, t.marker.symbol) for t in drawn}) == 20
