"""Circuits: sets of edges that every method leaves as they were."""

from __future__ import annotations

import pytest
import torch

from interp.errors import CircuitError
from interp.results import Circuit, Graph, Provenance

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=8)
GROUPED = Graph(n_layers=1, n_heads=4, n_kv_heads=2, d_mlp=8)
MADE = Provenance("mix-4l", task="ioi", n_prompts=8, method="eap", direction="noise")
EDGES = ("input->m0", "m0->a1.h0<v>", "a0.h1->m1", "a1.h0->logits")


def make(*edges: str, graph: Graph = GRAPH, values: bool = True) -> Circuit:
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(edges))] = True
    numbers = torch.arange(graph.n_edges).float() if values else None
    return Circuit(graph, included, "by hand", MADE, numbers)


def test_edges_nodes_and_heads_in_the_order_of_the_computation():
    circuit = make(*reversed(EDGES))
    assert circuit.edges == EDGES
    assert circuit.nodes == ("input", "a0.h1", "m0", "a1.h0", "m1", "logits")
    assert circuit.heads == ((0, 1), (1, 0))
    assert len(circuit) == circuit.n_edges == 4
    assert repr(circuit) == "Circuit(4 of 46 edges, 6 nodes; by hand; mix-4l · ioi (n=8) · noise · eap)"


def test_an_edge_into_shared_keys_touches_all_heads_of_the_group():
    assert make("input->a0.kv1<k>", graph=GROUPED).nodes == ("input", "a0.h2", "a0.h3")


def test_pruning_drops_what_is_cut_off_and_says_so():
    circuit = make(*EDGES)
    pruned = circuit.prune()
    assert pruned.edges == ("input->m0", "m0->a1.h0<v>", "a1.h0->logits")
    assert pruned.how == "by hand; 1 unconnected dropped"
    assert circuit.n_edges == 4
    assert pruned.prune().how == pruned.how
    assert pruned.values is circuit.values


def test_sets_of_edges():
    a, b = make(*EDGES[:3]), make(*EDGES[2:])
    assert a.union(b).edges == EDGES
    assert a.intersection(b).edges == EDGES[2:3]
    assert a.difference(b).edges == EDGES[:2]
    assert a.union(b).how == "(by hand) or (by hand)"
    assert a.complement().n_edges == GRAPH.n_edges - 3
    assert not set(a.complement().edges) & set(a.edges)
    assert a.with_edges(EDGES).edges == EDGES
    assert a.without_edges(EDGES[1:]).edges == EDGES[:1]
    assert a.edges == EDGES[:3]


def test_nodes_are_taken_out_with_all_their_edges():
    circuit = make(*EDGES)
    assert circuit.without_nodes(["m0"]).edges == EDGES[2:]
    assert circuit.without_nodes(["a1.h0", "logits"]).edges == (EDGES[0], EDGES[2])
    assert circuit.without_nodes(["m0"]).how == "by hand; m0 taken out"
    grouped = make("input->a0.kv1<k>", "input->m0", graph=GROUPED)
    assert grouped.without_nodes(["a0.h3"]).edges == ("input->m0",)


def test_frame_has_a_row_an_edge():
    frame = make(*EDGES).to_frame()
    assert list(frame.edge) == list(EDGES)
    assert list(frame.source) == ["input", "m0", "a0.h1", "a1.h0"]
    assert list(frame.target) == ["m0", "a1.h0<v>", "m1", "logits"]
    assert list(frame.value) == GRAPH.find_edges(EDGES).tolist()
    assert frame.position.isna().all()
    assert make(*EDGES, values=False).to_frame().value.isna().all()
    placed = Graph(1, 1, 1, 0, positions=("S1", "END"))
    assert list(make("input->a0.h0<q>@END", graph=placed).to_frame().position) == ["END"]


def test_file(tmp_path):
    circuit = make(*EDGES)
    read = Circuit.load(circuit.save(tmp_path / "circuit"))
    assert read.edges == EDGES
    assert read.graph == GRAPH
    assert read.provenance == MADE
    assert torch.equal(read.values, circuit.values)


def test_refusals():
    with pytest.raises(CircuitError, match=r"included of a circuit must be \[edge=46\]; got shape \[3\]"):
        Circuit(GRAPH, torch.zeros(3, dtype=torch.bool), "x", MADE)
    with pytest.raises(CircuitError, match=r"values of a circuit must be \[edge=46\]"):
        Circuit(GRAPH, torch.zeros(46, dtype=torch.bool), "x", MADE, torch.zeros(5))
    with pytest.raises(CircuitError, match=r"true or false for every edge; got torch\.int64"):
        Circuit(GRAPH, torch.zeros(46, dtype=torch.int64), "x", MADE)
    with pytest.raises(CircuitError, match="different graphs"):
        make(*EDGES).union(make("input->m0", graph=GROUPED))
    with pytest.raises(CircuitError, match=r"no node 'a9\.h9'"):
        make(*EDGES).without_nodes(["a9.h9"])
    with pytest.raises(CircuitError, match="m1 does not come before"):
        make(*EDGES).with_edges(["m1->m0"])
