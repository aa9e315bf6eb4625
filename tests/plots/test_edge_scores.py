"""Maps of all edges, read as data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_circuits import COLUMNS, GPT2, GROUPED, LABELLED, PLAIN, UNITS, make_edge_scores

from interp.errors import CircuitError
from interp.plots import plot_edge_scores
from interp.results.circuit_plan import show_edge

GRAPHS = pytest.mark.parametrize("graph", [PLAIN, GROUPED, UNITS, COLUMNS])


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def maps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def cells(trace, part=0):
    """{(writer, reader): value or effect} of what is an edge."""
    table = np.asarray(trace.customdata, dtype=float)[..., part]
    return {
        (x, y): table[i, j]
        for i, y in enumerate(trace.y)
        for j, x in enumerate(trace.x)
        if not math.isnan(table[i, j])
    }


@GRAPHS
def test_a_cell_is_an_edge_with_positions_added(graph):
    scores = make_edge_scores(graph)
    (trace,) = maps(plot_edge_scores(scores, by="node"))
    values, effects = {}, {}
    for edge in range(graph.n_edges):
        writer, reader = show_edge(graph, edge).partition(" at ")[0].split(" → ")
        for table, amounts in ((values, scores.values), (effects, scores.effects)):
            table[writer, reader] = table.get((writer, reader), 0.0) + float(amounts[edge])
    assert cells(trace) == pytest.approx(values, abs=1e-5)
    assert cells(trace, 1) == pytest.approx(effects, abs=1e-5)
    assert trace.y[-1] == "logits"
    assert trace.x[0] == "input"


@GRAPHS
def test_layers_are_sums_of_their_heads(graph):
    scores = make_edge_scores(graph)
    (trace,) = maps(plot_edge_scores(scores, by="layer"))
    wanted: dict[tuple[str, str], float] = {}
    many = {"q": "queries", "k": "keys", "v": "values"}
    for edge in range(graph.n_edges):
        writer = graph.writers[graph.edge_writer[edge]]
        reader = graph.readers[graph.edge_reader[edge]]
        x = (
            "input"
            if writer.kind == "input"
            else f"L{writer.layer} {'heads' if writer.kind == 'head' else 'MLP'}"
        )
        y = "logits" if reader.kind == "logits" else f"L{reader.layer} {many.get(reader.kind, 'MLP')}"
        wanted[x, y] = wanted.get((x, y), 0.0) + float(scores.values[edge])
    assert cells(trace) == pytest.approx(wanted, abs=1e-5)
    assert "heads of a layer added" in subtitle(plot_edge_scores(scores, by="layer"))


def test_positions_side_by_side():
    scores = make_edge_scores(LABELLED)
    figure = plot_edge_scores(scores, positions="each")
    drawn = maps(figure)
    assert [trace.name for trace in drawn] == ["S&lt;1&gt;", "S&#36;2", "END", "other"]
    assert [note.text for note in figure.layout.annotations][:2] == ["S&lt;1&gt;", "S&#36;2"]
    edge = LABELLED.find_edge("a0.h1->a1.h2<k>@END")
    assert cells(drawn[2])["L0H1", "L1H2 key"] == pytest.approx(float(scores.values[edge]))
    assert {trace.coloraxis for trace in drawn} == {"coloraxis"}
    assert "positions added" not in subtitle(figure)
    assert "positions added" in subtitle(plot_edge_scores(scores))
    columns = maps(plot_edge_scores(make_edge_scores(COLUMNS), positions="each"))
    assert [trace.name for trace in columns][:3] == ["0 &lt;s&gt;", "1 ·When", "2 ·John"]


def test_colours_follow_the_root_and_the_bar_tells_values():
    scores = make_edge_scores()
    figure = plot_edge_scores(scores)
    (trace,) = maps(figure)
    z, values = np.asarray(trace.z, dtype=float), np.asarray(trace.customdata, dtype=float)[..., 0]
    assert z * np.abs(z) == pytest.approx(values, nan_ok=True)
    largest = float(scores.values.abs().max())
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == pytest.approx((-(largest**0.5), largest**0.5))
    told = [float(text.replace("−", "-")) for text in axis.colorbar.ticktext]
    for place, value in zip(axis.colorbar.tickvals, told, strict=True):
        assert value == pytest.approx(place * abs(place), rel=0.06)
    assert "colours by the square root of the size" in subtitle(figure)
    plain = plot_edge_scores(scores, root=False)
    assert np.asarray(maps(plain)[0].z, dtype=float) == pytest.approx(values, nan_ok=True)
    assert "square root" not in subtitle(plain)


def test_layers_are_parted_and_named_where_nodes_cannot_be():
    figure = plot_edge_scores(make_edge_scores(GPT2), by="node")
    assert figure.layout.xaxis.ticktext == ("input", *(f"layer {i}" for i in range(12)))
    assert figure.layout.yaxis.ticktext == (*(f"layer {i}" for i in range(12)), "logits")
    places = sorted(line.x0 for line in figure.layout.shapes if line.type == "line" and line.x0 == line.x1)
    assert places == [0.5 + 13 * layer for layer in range(12)]
    (trace,) = maps(figure)
    assert len(trace.y) == 445
    assert len(trace.x) == 157
    assert maps(plot_edge_scores(make_edge_scores(GPT2)))[0].x[:3] == ("input", "L0 heads", "L0 MLP")
    assert maps(plot_edge_scores(make_edge_scores(PLAIN)))[0].x[:3] == ("input", "L0H0", "L0H1")
    small = plot_edge_scores(make_edge_scores(PLAIN))
    assert len(small.layout.yaxis.ticktext) == len(PLAIN.readers)


def test_table_of_the_largest():
    scores = make_edge_scores()
    table = next(trace for trace in plot_edge_scores(scores).data if trace.type == "table")
    ranked = scores.top(10)
    assert list(table.cells["values"][0]) == [show_edge(PLAIN, row.edge) for row in ranked]
    shares = [float(text.replace("−", "-")) for text in table.cells["values"][1]]
    assert shares == pytest.approx([row.value for row in ranked], abs=6e-4)


def test_title_and_baselines():
    figure = plot_edge_scores(make_edge_scores())
    title = figure.layout.title.text.replace("<br>", " ")
    assert (
        title == "Scores of 262 edges: estimated effect of patching corrupted activations into the clean run"
    )
    assert "gap between corrupted (0, -0.4) and clean (1, 3.3)" in subtitle(figure)
    equal = plot_edge_scores(make_edge_scores(clean=1.0, corrupted=1.0))
    assert "undefined, for clean and corrupted are equal" in subtitle(equal)
    assert cells(maps(equal)[0]) == {}


def test_refusals():
    scores = make_edge_scores()
    with pytest.raises(CircuitError, match="unknown grouping 'layers'; did you mean 'layer'"):
        plot_edge_scores(scores, by="layers")
    with pytest.raises(CircuitError, match="unknown treatment of positions 'all'"):
        plot_edge_scores(scores, positions="all")
    with pytest.raises(CircuitError, match="take all positions together; draw them with positions='sum'"):
        plot_edge_scores(scores, positions="each")
