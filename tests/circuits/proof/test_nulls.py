"""Random circuits: as many edges as asked for, and of the kind they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_circuits import ONE_LAYER, TWO_LAYERS

from interp.circuits.proof.nulls import NULLS, RandomCircuits, check_nulls, read_places
from interp.errors import CircuitError
from interp.results import Graph, MlpUnits
from interp.results.connectivity import keep_connected

GRAPHS = {
    "one layer": ONE_LAYER,
    "two layers": TWO_LAYERS,
    "grouped": Graph(n_layers=2, n_heads=4, n_kv_heads=2, d_mlp=4),
    "attention only": Graph(n_layers=3, n_heads=2, n_kv_heads=2, d_mlp=0),
    "parallel": Graph(n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=4, parallel_blocks=True),
    "positions": Graph(2, 2, 2, 4, positions=("0", "1", "2")),
    "labels": Graph(2, 2, 2, 4, positions=("S", "END", "other")),
    "neurons": Graph(2, 2, 2, 4, units=(MlpUnits(1, "neuron", (0, 3)),)),
}
EVERY = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def source(graph, seed=0, ends=None):
    return RandomCircuits(graph, np.random.default_rng(seed), ends)


@EVERY
def test_uniform_circuits_have_as_many_edges_and_any_of_them(graph):
    draw = source(graph)
    drawn = np.array([draw.uniform(7) for _ in range(600)])
    assert (drawn.sum(1) == 7).all()
    share = drawn.mean(0)
    wanted = 7 / graph.n_edges
    assert np.abs(share - wanted).max() < 5 * np.sqrt(wanted / 600)


@EVERY
def test_matched_circuits_have_as_many_edges_into_every_reader_and_position(graph):
    draw = source(graph)
    like = draw.uniform(graph.n_edges // 3)
    drawn = np.array([draw.match_degrees(like) for _ in range(300)])

    def degrees(included):
        return np.bincount(
            graph.edge_reader[included] * graph.n_positions + graph.edge_position[included],
            minlength=len(graph.readers) * graph.n_positions,
        )

    for included in drawn:
        assert (degrees(included) == degrees(like)).all()
    # within a reader every writer as often
    into = np.bincount(graph.edge_reader, minlength=len(graph.readers))
    wanted = np.bincount(graph.edge_reader[like], minlength=len(graph.readers)) / into
    if graph.n_positions == 1:
        assert np.abs(drawn.mean(0) - wanted[graph.edge_reader]).max() < 5 * 0.5 / np.sqrt(300)


@EVERY
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.9, 1.0])
def test_connected_circuits_are_connected_and_as_large(graph, share):
    draw = source(graph)
    n = max(1, round(share * graph.n_edges))
    sizes = []
    for _ in range(8):
        included = draw.connected(n)
        assert (keep_connected(graph, included) == included).all()
        sizes.append(int(included.sum()))
    assert max(sizes) == n
    assert min(sizes) >= n - 2


@given(st.integers(1, TWO_LAYERS.n_edges), st.integers(0, 50))
def test_connected_circuits_of_every_size(n, seed):
    included = source(TWO_LAYERS, seed).connected(n)
    assert n - 2 <= included.sum() <= n
    assert (keep_connected(TWO_LAYERS, included) == included).all()


def test_one_connected_edge_is_the_direct_one():
    included = source(TWO_LAYERS).connected(1)
    assert TWO_LAYERS.edge_names(included.nonzero()[0]) == ["input->logits"]


@EVERY
def test_ways_lead_from_the_input_to_the_logits_edge_by_edge(graph):
    draw = source(graph)
    for _ in range(100):
        way = draw.way()
        assert graph.edge_writer[way[0]] == 0
        assert graph.edge_reader[way[-1]] == len(graph.readers) - 1
        for before, after in itertools.pairwise(way):
            assert graph.edge_writer[after] in graph.fed[graph.edge_reader[before]]
        included = np.zeros(graph.n_edges, dtype=bool)
        included[way] = True
        assert (keep_connected(graph, included) == included).all()


def test_walks_take_every_reader_as_often():
    draw = source(ONE_LAYER)
    n = 4000
    firsts = np.bincount([ONE_LAYER.edge_reader[draw.way()[0]] for _ in range(n)], minlength=11)
    wanted = n / len(ONE_LAYER.readers)
    assert np.abs(firsts - wanted).max() < 5 * np.sqrt(wanted)


def test_walks_go_on_through_every_head_that_a_key_serves_and_to_every_later_position():
    graph = GRAPHS["grouped"]
    ways = [graph.edge_names(source(graph, seed).way()) for seed in range(400)]
    after = {
        way[i + 1].split("->")[0] for way in ways for i, edge in enumerate(way) if edge.endswith("a0.kv1<k>")
    }
    assert after == {"a0.h2", "a0.h3"}
    graph = GRAPHS["positions"]
    ways = [graph.edge_names(source(graph, seed).way()) for seed in range(400)]
    moves = {(way[i][-1], way[i + 1][-1]) for way in ways for i, edge in enumerate(way) if "<v>" in edge}
    assert moves == {("0", "0"), ("0", "1"), ("0", "2"), ("1", "1"), ("1", "2"), ("2", "2")}


def test_ways_end_where_the_logits_are_looked_at():
    graph = GRAPHS["labels"]
    marked = np.zeros(graph.n_edges, dtype=bool)
    assert read_places(graph, marked).all()
    marked[graph.find_edges(["m1->logits@END", "input->m0@S"])] = True
    ends = read_places(graph, marked)
    assert ends.tolist() == [False, True, False]
    draw = source(graph, ends=ends)
    for _ in range(50):
        assert graph.edge_name(draw.way()[-1]).endswith("->logits@END")
    # the larger one is filled up with single edges
    for n in (20, graph.n_edges):
        names = graph.edge_names(draw.connected(n).nonzero()[0])
        assert len(names) >= min(n, 90)
        assert not [name for name in names if name.endswith(("logits@S", "logits@other"))]


def test_new_ways_bring_edges_that_are_not_there():
    draw = source(TWO_LAYERS)
    included = draw.connected(12)
    for _ in range(50):
        way, new = draw.new_way(included)
        assert len(new)
        assert not included[new].any()
        assert set(new) <= set(way)
        assert included[list(set(way) - set(new))].all()
    with pytest.raises(CircuitError, match="it has 46 of 46 edges"):
        draw.new_way(np.ones(TWO_LAYERS.n_edges, dtype=bool))


@pytest.mark.parametrize("kind", NULLS)
def test_draws_repeat_with_the_seed_only(kind):
    like = source(TWO_LAYERS, 5).connected(15)
    first, again, other = (source(TWO_LAYERS, seed).draw(kind, like) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert first.sum() == 15


def test_unknown_kinds_are_refused():
    with pytest.raises(CircuitError, match="did you mean 'connected'"):
        check_nulls(("uniform", "conected"))
