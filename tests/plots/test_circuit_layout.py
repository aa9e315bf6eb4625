"""Where nodes stand in a circuit's picture, and how edges pass them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fake_circuits import COLUMNS, GROUPED, LABELLED, PLAIN, UNITS, make_circuit

from interp.plots.circuit_layout import NODE_HEIGHT, Box, bend_edge, bend_move, lay_out, merge_positions
from interp.results.circuit_plan import Spot, plan_circuit

CASES = [(PLAIN, "head"), (GROUPED, "head"), (UNITS, "head"), (COLUMNS, "position"), (LABELLED, "position")]
EACH = pytest.mark.parametrize(("graph", "by"), CASES)


@EACH
def test_nodes_stand_apart_inside_their_columns(graph, by):
    plan = plan_circuit(make_circuit(graph, graph.n_edges // 2))
    placed = lay_out(plan, by)
    assert set(placed.boxes) == set(plan.spots)
    for (_, a), (_, b) in itertools.combinations(placed.boxes.items(), 2):
        assert abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= NODE_HEIGHT
    for spot, box in placed.boxes.items():
        assert box.x - box.width / 2 >= 0
        assert box.x + box.width / 2 <= placed.width
        assert 0 < box.bottom < box.top < placed.height
        if by == "position":
            name, left, right = placed.columns[spot.position]
            assert name == graph.positions[spot.position]
            assert left <= box.x - box.width / 2 < box.x + box.width / 2 <= right


@EACH
def test_edges_rise_and_rows_follow_the_computation(graph, by):
    plan = plan_circuit(make_circuit(graph, graph.n_edges // 2))
    placed = lay_out(plan, by)
    for link in plan.links:
        assert placed.boxes[link.source].top < placed.boxes[link.target].bottom
    for source, target in plan.moves:
        assert placed.boxes[source].y == placed.boxes[target].y
    heights = [y for _, y in placed.rows]
    assert heights == sorted(heights)
    assert {box.y for box in placed.boxes.values()} == set(heights)


def test_rows_are_named_and_mlps_stand_above_their_heads_unless_beside_them():
    serial = lay_out(plan_circuit(make_circuit(PLAIN, PLAIN.n_edges)), "head")
    assert [name for name, _ in serial.rows] == [
        "input", "layer 0 heads", "layer 0 MLP", "layer 1 heads", "layer 1 MLP", "layer 2 heads", "layer 2 MLP",
        "logits",
    ]  # fmt: skip
    parallel = lay_out(plan_circuit(make_circuit(GROUPED, GROUPED.n_edges)), "head")
    assert [name for name, _ in parallel.rows] == ["input", "layer 0", "layer 1", "layer 2", "logits"]
    assert [name for name, _, _ in serial.columns] == ["0", "1", "2", "3", "MLP"]


def test_what_is_not_in_the_circuit_is_faint_and_takes_little_room():
    circuit = make_circuit(PLAIN, PLAIN.n_edges).without_nodes(["a0.h0", "a2.h3", "m1"])
    placed = lay_out(plan_circuit(circuit), "head")
    assert len(placed.absent) == 3
    small = make_circuit().without_edges(make_circuit().edges[1:])
    assert lay_out(plan_circuit(small), "head").height < placed.height / 2
    assert lay_out(plan_circuit(make_circuit(COLUMNS)), "position").absent == ()


def test_ports_stand_from_left_to_right():
    box = Box(100.0, 50.0, 40.0)
    assert [box.port(kind) for kind in ("q", "k", "v", "other")] == [88.0, 100.0, 112.0, 100.0]
    keys = Box(100.0, 50.0, 40.0, keys=True)
    assert 100 - 10 < keys.port("k") < 100 < keys.port("v") < 110


@EACH
def test_curves_go_from_the_top_of_a_node_to_a_port(graph, by):
    plan = plan_circuit(make_circuit(graph, graph.n_edges // 2))
    placed = lay_out(plan, by)
    for link, kind in itertools.product(plan.links, ("q", "k", "v", "other")):
        source, target = placed.boxes[link.source], placed.boxes[link.target]
        x, y = bend_edge(placed, source, target, kind, 1)
        assert (x[0], y[0]) == pytest.approx((source.x, source.top))
        assert (x[-1], y[-1]) == pytest.approx((target.port(kind), target.bottom))
        assert (np.diff(y) > 0).all()
        assert 0 <= x.min() <= x.max() <= placed.width
    for source, target in plan.moves:
        x, y = bend_move(placed.boxes[source], placed.boxes[target])
        assert (x[0], x[-1]) == pytest.approx((placed.boxes[source].x, placed.boxes[target].x))
        assert y.max() <= placed.boxes[source].bottom


def test_an_edge_goes_around_the_node_between():
    edges = ["input->m0", "m0->m1", "m1->m2", "m0->m2", "m2->logits"]
    circuit = make_circuit(PLAIN, 3, prune=False)
    circuit = circuit.with_included(torch.zeros_like(circuit.included), "by hand").with_edges(edges)
    plan = plan_circuit(circuit)
    placed = lay_out(plan, "head")
    box = {name: placed.boxes[Spot("node", PLAIN.find_node(name), 0)] for name in ("m0", "m1", "m2")}
    for side in (1, -1):
        x, y = bend_edge(placed, box["m0"], box["m2"], "other", side)
        passing = x[np.abs(y - box["m1"].y) < NODE_HEIGHT / 2]
        assert (side * (passing - box["m1"].x) > box["m1"].width / 2).all()
        straight, _ = bend_edge(placed, box["m0"], box["m1"], "other", side)
        assert straight == pytest.approx(np.full_like(straight, box["m0"].x))


def test_positions_are_added():
    circuit = make_circuit(LABELLED, LABELLED.n_edges // 3)
    merged = merge_positions(circuit)
    assert merged.graph.positions == ()
    wanted: dict[str, float] = {}
    for name, value in zip(circuit.edges, circuit.to_frame().value, strict=True):
        pair = name.partition("@")[0]
        wanted[pair] = wanted.get(pair, 0.0) + value
    assert set(merged.edges) == set(wanted)
    assert merged.to_frame().value.tolist() == pytest.approx(
        [wanted[name] for name in merged.edges], abs=1e-6
    )
