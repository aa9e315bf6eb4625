"""The graph of a model: numbers and names of edges, and which edges can matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph import graphs, naive_connected, naive_edges, naive_ends, split_edge

from interp.errors import CircuitError
from interp.results import Graph, MlpUnits
from interp.results.connectivity import keep_connected

SMALL = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=8)
GROUPED = Graph(n_layers=2, n_heads=4, n_kv_heads=2, d_mlp=8)


@given(graphs(largest_layers=3))
def test_every_edge_has_the_name_and_number_that_writing_all_out_gives(graph):
    names = naive_edges(graph)
    assert graph.n_edges == len(names)
    assert graph.edge_names(range(graph.n_edges)) == names
    assert graph.find_edges(names).tolist() == list(range(len(names)))
    assert graph.n_pairs * graph.n_positions == graph.n_edges


@given(graphs(largest_layers=3), st.data())
def test_arrays_over_edges_agree_with_names(graph, data):
    edge = data.draw(st.integers(0, graph.n_edges - 1))
    writer, reader, place = split_edge(naive_edges(graph)[edge])
    assert graph.nodes[graph.edge_writer[edge]] == writer
    assert graph.reader_names[graph.edge_reader[edge]] == reader
    assert (graph.positions or ("",))[graph.edge_position[edge]] == place
    numbers = (int(a[edge]) for a in (graph.edge_writer, graph.edge_reader, graph.edge_position))
    assert graph.edge_number(*numbers) == edge
    fed = [graph.nodes[node] for node in graph.fed[graph.edge_reader[edge]]]
    assert fed == list(dict.fromkeys(node for node, _ in naive_ends(graph, reader, place)))


def test_the_published_count_of_gpt2_small():
    graph = Graph(n_layers=12, n_heads=12, n_kv_heads=12, d_mlp=3072)
    assert graph.n_edges == 32_491
    assert graph.edge_name(40) == "a0.h3->m0"


def test_a_model_of_32_layers_is_numbers_only():
    graph = Graph(n_layers=32, n_heads=32, n_kv_heads=32, d_mlp=14336)
    assert graph.n_edges == 1_592_881
    assert graph.edge_writer.nbytes + graph.edge_reader.nbytes < 13e6


def test_names_of_nodes_and_readers():
    assert SMALL.nodes == ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits")
    readers = ("a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>", "m0")
    assert SMALL.reader_names[:7] == readers
    assert SMALL.reader_names[-1] == "logits"
    assert [SMALL.find_node(name) for name in SMALL.nodes] == list(range(8))


def test_heads_of_a_group_share_keys_and_values():
    assert GROUPED.reader_names[:9] == (
        *(f"a0.h{i}<q>" for i in range(4)),
        *("a0.kv0<k>", "a0.kv1<k>", "a0.kv0<v>", "a0.kv1<v>"),
        "m0",
    )
    number = GROUPED.reader_names.index("a0.kv1<v>")
    assert [GROUPED.nodes[node] for node in GROUPED.fed[number]] == ["a0.h2", "a0.h3"]


def test_parallel_mlps_do_not_see_their_own_layer():
    parallel = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=8, parallel_blocks=True)
    assert "a0.h0->m0" in naive_edges(SMALL)
    assert SMALL.n_edges - parallel.n_edges == 4
    with pytest.raises(CircuitError, match=r"a0\.h0 does not come before m0"):
        parallel.find_edge("a0.h0->m0")


def test_units_are_nodes_and_what_is_left_is_one_more():
    units = (MlpUnits(0, "neuron", (3, 5)), MlpUnits(1, "latent", (17,)))
    graph = Graph(n_layers=2, n_heads=1, n_kv_heads=1, d_mlp=8, units=units)
    assert graph.nodes == ("input", "a0.h0", "m0.n3", "m0.n5", "m0", "a1.h0", "m1.l17", "m1", "logits")
    # of a coder's error nothing is known that it reads
    assert "m0" in graph.reader_names
    assert "m1" not in graph.reader_names
    all_neurons = Graph(n_layers=1, n_heads=1, n_kv_heads=1, d_mlp=2, units=(MlpUnits(0, "neuron", (0, 1)),))
    assert all_neurons.nodes == ("input", "a0.h0", "m0.n0", "m0.n1", "logits")


def test_equal_sizes_are_equal_graphs():
    again = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=8)
    assert again == SMALL
    assert hash(again) == hash(SMALL)
    wider = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=16)
    assert wider != SMALL
    assert wider.same_edges(SMALL)
    assert not GROUPED.same_edges(SMALL)
    assert not Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=0).same_edges(SMALL)
    named = Graph(2, 2, 2, 8, positions=("0", "1"), position_tokens=("<s>", " a"))
    assert named.same_edges(Graph(2, 2, 2, 8, positions=("0", "1")))
    assert not named.same_edges(Graph(2, 2, 2, 8, positions=("S", "other")))


def test_positions_in_order():
    assert Graph(1, 1, 1, 0, positions=("0", "1", "2")).positions_in_order
    assert not Graph(1, 1, 1, 0, positions=("1", "0")).positions_in_order
    assert not Graph(1, 1, 1, 0, positions=("S1", "other")).positions_in_order


PLACED = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=8, positions=("S1", "END"))


@pytest.mark.parametrize(
    ("graph", "name", "message"),
    [
        (SMALL, "a0.h1", "cannot read edge 'a0.h1'; an edge of this graph is written like 'a0.h1->a1.h0<k>'"),
        (SMALL, "a0.h1->m1@END", "written like 'a0.h1->a1.h0<k>'."),
        (PLACED, "a0.h1->m1", "written like 'a0.h1->a1.h0<k>@END'"),
        (PLACED, "a0.h1->m1@S2", "positions are S1, END"),
        (SMALL, "a0.h1->a1.h0", r"nothing reads as 'a1.h0'; did you mean 'a1.h0<"),
        (SMALL, "a0.h1->zzz", r"nothing reads as 'zzz'. Readers are such as a0.h0<q>, a0.h1<q> and logits."),
        (SMALL, "a0.h9->m1", "no node 'a0.h9' writes; did you mean 'a0.h1'"),
        (SMALL, "logits->m1", "no node 'logits' writes"),
        (SMALL, "m1->a1.h0<q>", "m1 does not come before a1.h0<q>"),
        (SMALL, "m1->m1", "m1 does not come before m1"),
    ],
)
def test_edges_that_the_graph_has_not(graph, name, message):
    with pytest.raises(CircuitError) as caught:
        graph.find_edge(name)
    assert message in str(caught.value)


def test_heads_and_nodes_that_the_graph_has_not():
    with pytest.raises(CircuitError, match=r"nothing reads as 'a7\.h9<q>'"):
        SMALL.find_edge("input->a7.h9<q>")
    with pytest.raises(CircuitError, match=r"no node 'a1\.h5'; did you mean 'a1\.h"):
        SMALL.find_node("a1.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": (MlpUnits(1, "latent", (1,)), MlpUnits(0, "latent", (1,)))}, "in the order of layers"),
        ({"units": (MlpUnits(0, "latent", (1,)), MlpUnits(0, "neuron", (1,)))}, "once a layer"),
        ({"units": (MlpUnits(5, "latent", (1,)),)}, "no such MLP"),
        ({"units": (MlpUnits(0, "neuron", (1,)),), "d_mlp": 0}, "no such MLP"),
        ({"units": (MlpUnits(0, "neuron", (3, 1)),)}, "different rising numbers"),
        ({"units": (MlpUnits(0, "neuron", ()),)}, "different rising numbers"),
        ({"units": (MlpUnits(0, "neuron", (8,)),)}, r"lie in 0\.\.7; got 8"),
        ({"positions": ("S1", "S1")}, "must differ"),
        ({"positions": ("S1", "END"), "position_tokens": ("a",)}, "1 tokens for 2 positions"),
    ],
)
def test_graphs_that_cannot_be(changes, message):
    with pytest.raises(CircuitError, match=message):
        Graph(**{"n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_mlp": 8} | changes)


def test_graphs_are_saved_and_loaded(tmp_path):
    graph = Graph(2, 4, 2, 8, True, (MlpUnits(1, "latent", (3, 9)),), ("0", "1"), ("<s>", " a"))
    assert Graph.load(graph.save(tmp_path / "graph")) == graph


@settings(max_examples=150)
@given(graphs(), st.data())
def test_connected_edges_are_those_on_some_path(graph, data):
    seed, dense = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from([0.1, 0.3, 0.6]))
    included = np.random.default_rng(seed).random(graph.n_edges) < min(dense, 24 / graph.n_edges)
    kept = keep_connected(graph, included)
    assert graph.edge_names(kept.nonzero()[0]) == graph.edge_names(
        naive_connected(graph, included).nonzero()[0]
    )
    assert np.array_equal(keep_connected(graph, kept), kept)


@pytest.mark.parametrize(
    ("edges", "kept"),
    [
        (["input->a0.h0<q>", "a0.h0->logits"], 2),
        (["input->a0.h0<q>", "a0.h1->logits"], 0),
        (["a0.h0->m0", "m0->logits"], 0),
        (["input->m0", "m0->a1.h0<v>"], 0),
        (["input->logits", "a0.h0->logits"], 1),
        (["input->m0", "m0->a1.h1<k>", "a1.h1->m1", "m1->logits", "a0.h0->m1"], 4),
    ],
)
def test_what_is_cut_off(edges, kept):
    included = np.zeros(SMALL.n_edges, dtype=bool)
    included[SMALL.find_edges(edges)] = True
    assert keep_connected(SMALL, included).sum() == kept


def test_attention_moves_forward_only_where_positions_are_in_order():
    def connected(positions, *edges):
        graph = Graph(1, 1, 1, 0, positions=positions)
        included = np.zeros(graph.n_edges, dtype=bool)
        included[graph.find_edges(edges)] = True
        return int(keep_connected(graph, included).sum())

    ordered = ("0", "1")
    assert connected(ordered, "input->a0.h0<k>@0", "a0.h0->logits@1") == 2
    assert connected(ordered, "input->a0.h0<k>@1", "a0.h0->logits@0") == 0
    assert connected(ordered, "input->a0.h0<q>@0", "a0.h0->logits@1") == 0
    assert connected(("END", "S1"), "input->a0.h0<k>@S1", "a0.h0->logits@END") == 2


def test_errors_of_coders_begin_paths():
    graph = Graph(1, 1, 1, 8, units=(MlpUnits(0, "latent", (2,)),))
    included = np.zeros(graph.n_edges, dtype=bool)
    included[graph.find_edges(["m0->logits", "m0.l2->logits"])] = True
    assert graph.edge_names(keep_connected(graph, included).nonzero()[0]) == ["m0->logits"]
