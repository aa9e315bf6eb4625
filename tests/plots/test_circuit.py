"""Figures of circuits, read as data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fake_circuits import COLUMNS, GPT2, GROUPED, LABELLED, PLAIN, UNITS, make_circuit

from interp.errors import CircuitError
from interp.plots import plot_circuit
from interp.plots.circuit_edges import edge_looks
from interp.plots.scales import BLUE, GREY, RED
from interp.results.circuit_plan import plan_circuit

GRAPHS = pytest.mark.parametrize("graph", [PLAIN, GROUPED, UNITS, COLUMNS, LABELLED])


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def hovers(figure):
    """Texts of the points along edges, by the legend's groups."""
    return {
        trace.legendgroup: list(trace.hovertext)
        for trace in figure.data
        if trace.name and trace.name.startswith("hover ")
    }


def curves(figure):
    """(trace, x, y) of every edge drawn."""
    for trace in figure.data:
        if trace.mode == "lines" and trace.legendgroup in ("q", "k", "v", "other") and trace.x[0] is not None:
            xs, ys = np.array(trace.x, dtype=float), np.array(trace.y, dtype=float)
            ends = np.flatnonzero(np.isnan(xs))
            for x, y in zip(np.split(xs, ends), np.split(ys, ends), strict=True):
                if np.isfinite(x).any():
                    yield trace, x[np.isfinite(x)], y[np.isfinite(y)]


def legend(figure, name):
    return [trace for trace in figure.data if trace.legend == name and trace.showlegend is not False]


def nodes(figure):
    trace = next(trace for trace in figure.data if trace.name == "nodes")
    return dict(
        zip(zip(trace.x, trace.y, strict=True), zip(trace.text, trace.hovertext, strict=True), strict=True)
    )


@GRAPHS
def test_every_edge_is_one_curve_that_tells_its_name_at_three_points(graph):
    circuit = make_circuit(graph, 60)
    figure = plot_circuit(circuit)
    drawn = list(curves(figure))
    assert len(drawn) == circuit.n_edges
    told = [text for texts in hovers(figure).values() for text in texts]
    names = [name.replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;") for name in circuit.edges]
    assert sorted(text.split("<br>")[-2] for text in told) == sorted(3 * names)
    points = {
        (x, y) for trace in figure.data if trace.mode == "markers" and trace.name.startswith("hover ")
        for x, y in zip(trace.x, trace.y, strict=True)
    }  # fmt: skip
    on_curves = {(float(a), float(b)) for _, x, y in drawn for a, b in zip(x, y, strict=True)}
    assert points <= on_curves


@pytest.mark.parametrize("graph", [PLAIN, UNITS])
def test_colour_is_sign_and_width_size(graph):
    circuit = make_circuit(graph, 60)
    plan = plan_circuit(circuit)
    looks = edge_looks(circuit, plan)
    assert looks.largest == pytest.approx(float(circuit.values[circuit.included].abs().max()))
    counted: dict[tuple[str, float, str], int] = {}
    for trace, _, _ in curves(plot_circuit(circuit)):
        key = (trace.line.color, trace.line.width, trace.legendgroup)
        counted[key] = counted.get(key, 0) + 1
    wanted: dict[tuple[str, float, str], int] = {}
    for link in plan.links:
        value = float(circuit.values[link.edge])
        size = max(1, math.ceil(8 * abs(value) / looks.largest - 1e-9))
        kind = graph.readers[graph.edge_reader[link.edge]].kind
        key = (BLUE if value > 0 else RED, 0.8 + 5.2 * size / 8, kind if kind in "qkv" else "other")
        wanted[key] = wanted.get(key, 0) + 1
    assert counted == pytest.approx(wanted)
    assert {BLUE, RED} == {color for color, _, _ in counted}


def test_strong_edges_lie_above_weak_ones():
    widths = [trace.line.width for trace, _, _ in curves(plot_circuit(make_circuit(PLAIN, 100)))]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_hover_tells_names_and_values():
    circuit = make_circuit(LABELLED, 60)
    edge = next(name for name in circuit.edges if "<v>@END" in name and name.startswith("a0.h"))
    value = float(circuit.values[circuit.graph.find_edge(edge)])
    escaped = edge.replace("<", "&lt;").replace(">", "&gt;")
    text = next(text for text in hovers(plot_circuit(circuit))["v"] if escaped in text)
    head = "L0H" + edge[4]
    number = edge.split("->a1.h")[1][0]
    assert text == (
        f"<b>{head} → L1H{number} value</b><br>read at END<br>{escaped}<br>carries {value:+.3f} of the gap"
    ).replace("-", "−").replace("−&gt;", "-&gt;")


def test_nodes_tell_what_their_edges_carry_together():
    circuit = make_circuit()
    figure = plot_circuit(circuit)
    frame = circuit.to_frame()
    shown = dict(nodes(figure).values())
    assert set(shown) == {name.upper().replace("A", "L").replace(".", "") if name[0] == "a" else
                          name.upper() if name[0] == "m" else name for name in circuit.nodes}  # fmt: skip
    own = frame[frame.source == "input"]
    into = (frame.target == "logits").sum()
    assert shown["input"] == (
        f"<b>input</b><br>0 edges in, {len(own)} out<br>its edges together: carries "
        f"{own.value.sum():+.3f} of the gap".replace("-", "−")
    )
    assert shown["logits"] == f"<b>logits</b><br>{into} edges in, 0 out"


def test_kinds_of_reading_differ_and_a_click_hides_them_with_their_points():
    figure = plot_circuit(make_circuit(PLAIN, 100))
    entries = legend(figure, "legend2")
    assert [trace.name for trace in entries] == [
        "into queries",
        "into keys",
        "into values",
        "into MLPs and logits",
    ]
    dashes = {trace.legendgroup: trace.line.dash for trace in entries}
    assert len({dashes["q"], dashes["k"], dashes["v"]}) == 3
    for trace, _, _ in curves(figure):
        assert trace.line.dash == dashes[trace.legendgroup]
        assert trace.legend == "legend2"
    assert figure.layout.legend2.itemclick is None
    assert figure.layout.legend.itemclick is figure.layout.legend3.itemclick is False
    colors = {trace.legendgroup: trace.marker.color for trace in entries}
    ports = {
        trace.legendgroup: trace.marker.color
        for trace in figure.data
        if (trace.name or "").startswith("ports")
    }
    assert ports == {kind: colors[kind] for kind in "qkv"}


def test_legend_of_signs_names_what_is_drawn():
    circuit = make_circuit(PLAIN, 30)
    largest = float(circuit.values[circuit.included].abs().max())
    names = [trace.name for trace in legend(plot_circuit(circuit), "legend")]
    assert names[:2] == ["supports the clean answer", "opposes it"]
    assert names[2:] == [f"{largest:.2g} of the gap", f"{largest / 4:.2g} of the gap"]
    positive = replace(circuit, values=circuit.values.abs())
    assert [trace.name for trace in legend(plot_circuit(positive), "legend")][:2] == [
        "supports the clean answer", f"{largest:.2g} of the gap",
    ]  # fmt: skip


def test_without_values_all_edges_are_grey():
    figure = plot_circuit(replace(make_circuit(), values=None))
    assert {trace.line.color for trace, _, _ in curves(figure)} == {GREY}
    assert [trace.name for trace in legend(figure, "legend")] == ["value not known"]
    assert "without values, all edges alike" in subtitle(figure)
    assert all(text.endswith("value not known") for texts in hovers(figure).values() for text in texts)


def test_layouts():
    circuit = make_circuit(LABELLED, 80)
    by_position, by_head = plot_circuit(circuit), plot_circuit(circuit, layout="head")
    assert by_position == circuit.plot()
    assert by_position.layout.xaxis.ticktext == ("S&lt;1&gt;", "S&#36;2", "END", "other")
    assert by_head.layout.xaxis.ticktext == ("0", "1", "2", "3", "MLP")
    assert "positions added" in subtitle(by_head)
    assert "positions added" not in subtitle(by_position)
    assert plot_circuit(make_circuit(COLUMNS)).layout.xaxis.ticktext[:3] == ("&lt;s&gt;", "·When", "·John")
    assert plot_circuit(make_circuit()).layout.xaxis.title.text == "head"


def test_reading_elsewhere_is_dotted():
    circuit = make_circuit(LABELLED, 80)
    plan = plan_circuit(circuit)
    figure = plot_circuit(circuit)
    moves = next(trace for trace in figure.data if trace.name == "moves")
    assert list(moves.x).count(None) == len(plan.moves) > 0
    assert moves.line.dash == "dot"
    assert "dotted: from where a head's keys and values are read to where it acts" in subtitle(figure)
    assert not any(trace.name == "moves" for trace in plot_circuit(make_circuit()).data)
    assert "dotted" not in subtitle(plot_circuit(make_circuit()))


def test_only_the_strongest_edges_of_a_large_circuit():
    circuit = make_circuit(GPT2, 6000)
    figure = plot_circuit(circuit, max_edges=50)
    assert len(list(curves(figure))) == 50
    assert f"only the 50 strongest of {circuit.n_edges:,} edges are drawn" in subtitle(figure)
    assert (
        f"Circuit of {circuit.n_edges:,} edges between {len(circuit.nodes)} nodes" in figure.layout.title.text
    )
    assert len(list(curves(plot_circuit(circuit)))) == 200
    everything = plot_circuit(make_circuit(), max_edges=1000)
    assert "are drawn" not in subtitle(everything)
    plain = replace(make_circuit(), values=None)
    assert "only the 3 first of" in subtitle(plot_circuit(plain, max_edges=3))


def test_errors_of_coders_units_and_roles_are_coloured():
    circuit = make_circuit(UNITS, 161)
    figure = plot_circuit(circuit, roles={"a1.h0": "<mover> & $co", "L1H1": "<mover> & $co", "m0.n3": "gate"})
    entries = {trace.name: trace.marker.color for trace in legend(figure, "legend3")}
    assert list(entries) == [
        "head", "MLP", "neuron", "latent", "coder's error", "input, logits", "&lt;mover&gt; &amp; &#36;co", "gate",
    ]  # fmt: skip
    boxes = {
        trace.name.removeprefix("boxes "): (list(trace.x).count(None), trace.fillcolor)
        for trace in figure.data if (trace.name or "").startswith("boxes ")
    }  # fmt: skip
    assert boxes["&lt;mover&gt; &amp; &#36;co"] == (2, entries["&lt;mover&gt; &amp; &#36;co"])
    assert boxes["coder's error"][0] == 1
    latents = sum(name.startswith("m2.l") for name in circuit.nodes)
    assert boxes["latent"][0] == latents
    told = dict(nodes(figure).values())
    assert told["M2 error"].startswith("<b>M2 error</b><br>0 edges in")
    assert told["M0 neuron 3"].startswith("<b>M0 neuron 3</b><br>gate<br>")


def test_refusals():
    circuit = make_circuit()
    with pytest.raises(CircuitError, match="unknown layout 'heads'; did you mean 'head'"):
        plot_circuit(circuit, layout="heads")
    with pytest.raises(CircuitError, match="takes all positions together; draw it with layout='head'"):
        plot_circuit(circuit, layout="position")
    with pytest.raises(CircuitError, match="without edges has no picture"):
        plot_circuit(circuit.without_edges(circuit.edges))
    with pytest.raises(CircuitError, match="max_edges=0"):
        plot_circuit(circuit, max_edges=0)
    with pytest.raises(CircuitError, match=r"no node 'a9\.h9'"):
        plot_circuit(circuit, roles={"a9.h9": "mover"})
