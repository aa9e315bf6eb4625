"""Choosing circuits: fast ways against slow ones that look at every edge at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph import graphs, naive_connected, naive_edges, naive_greedy

from interp.circuits.choose import choose_circuit, count_edges, edge_strength, take_greedily, take_top
from interp.errors import CircuitError
from interp.results import EdgeScores, Graph, Provenance

GRAPH = Graph(2, 2, 2, 8)


def make(
    graph: Graph = GRAPH, seed: int = 0, rounded: bool = False, direction: str = "noise", **more
) -> EdgeScores:
    """Random scores; rounded ones have many ties."""
    effects = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    known = dict(clean=3.0, corrupted=1.0, provenance=Provenance("m", method="eap", direction=direction))
    return EdgeScores(graph, effects.round() if rounded else effects, **known | more)


@given(graphs(), st.integers(0, 2**32 - 1), st.booleans(), st.data())
def test_top_edges_are_the_strongest_and_of_equal_ones_the_first(graph, seed, rounded, data):
    strength = edge_strength(make(graph, seed, rounded))
    n = data.draw(st.integers(1, graph.n_edges))
    order = sorted(range(graph.n_edges), key=lambda edge: (-strength[edge], edge))
    assert sorted(order[:n]) == take_top(strength, n).nonzero()[0].tolist()
    limit = data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    wanted = [edge for edge in range(graph.n_edges) if strength[edge] >= limit]
    assert take_top(strength, graph.n_edges, limit).nonzero()[0].tolist() == wanted


@settings(max_examples=60)
@given(graphs(), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.4, 1.2]), st.data())
def test_greedy_edges_are_those_of_the_slow_way(graph, seed, rounded, limit, data):
    strength = edge_strength(make(graph, seed, rounded))
    n = data.draw(st.integers(1, 14))
    slow = sorted(naive_greedy(graph, strength, n, limit))
    fast = take_greedily(graph, strength, n, limit)
    assert sorted(graph.edge_names(fast.nonzero()[0])) == slow


@settings(max_examples=40)
@given(graphs(), st.integers(0, 2**32 - 1), st.sampled_from(["top", "greedy"]), st.booleans())
def test_chosen_circuits_are_pruned_to_what_is_connected(graph, seed, how, signed):
    scores = make(graph, seed)
    n = min(12, graph.n_edges)
    rough = choose_circuit(scores, n, how=how, signed=signed, prune=False)
    fine = choose_circuit(scores, n, how=how, signed=signed)
    assert np.array_equal(fine.included.numpy(), naive_connected(graph, rough.included.numpy()))
    assert rough.n_edges <= n
    if signed:
        assert bool((scores.values[rough.included] > 0).all())


def test_greedy_edges_all_lead_to_the_logits():
    scores = make(Graph(3, 4, 2, 8, positions=("0", "1", "2")))
    circuit = choose_circuit(scores, 60, how="greedy", prune=False)
    assert circuit.n_edges == 60
    # all edges that leave the input, so that nothing is cut off below
    below = [name for name in naive_edges(scores.graph) if name.startswith("input->")]
    whole = circuit.with_edges(below).prune()
    assert set(circuit.edges) <= set(whole.edges)


def test_values_and_what_was_done_go_with_the_circuit():
    scores = make()
    circuit = choose_circuit(scores, 0.2, prune=False)
    assert circuit.n_edges == 9
    assert circuit.how == "9 edges (0.2 of all), largest"
    assert circuit.provenance is scores.provenance
    assert torch.equal(circuit.values, scores.values)
    assert choose_circuit(scores, 9, prune=False).how == "9 edges, largest"
    assert choose_circuit(scores, 9, prune=False, how="greedy").how == "9 edges, greedily from the logits"
    assert choose_circuit(scores, 9, prune=False, signed=True).how == "9 edges, supporting largest"
    by_limit = choose_circuit(scores, threshold=0.5, prune=False)
    assert by_limit.how == "edges that carry at least 0.5 of the gap, largest"
    assert by_limit.included.tolist() == (scores.values.abs() >= 0.5).tolist()
    greedy = choose_circuit(scores, threshold=0.5, how="greedy", prune=False)
    assert set(greedy.edges) <= set(by_limit.edges)


@pytest.mark.parametrize(("direction", "sign"), [("noise", -1), ("denoise", 1)])
def test_signed_choice_takes_what_supports_the_clean_answer(direction, sign):
    scores = make(direction=direction)
    circuit = choose_circuit(scores, GRAPH.n_edges, signed=True, prune=False)
    assert circuit.included.tolist() == (sign * scores.effects > 0).tolist()
    assert choose_circuit(scores, 5, signed=True, prune=False).n_edges == 5


def test_magnitudes_rank_where_effects_cancel():
    magnitude = torch.zeros(GRAPH.n_edges)
    magnitude[7] = 100.0
    scores = make(magnitude=magnitude)
    assert choose_circuit(scores, 1, prune=False).edge_numbers.tolist() == [7]
    assert edge_strength(scores)[7] == 50.0
    # a magnitude supports nothing
    assert choose_circuit(scores, 1, signed=True, prune=False).edge_numbers.tolist() == [
        int(scores.values.argmax())
    ]


@pytest.mark.parametrize(
    ("edges", "count"), [(0.02, 20), (1.0, 1000), (0.0001, 1), (7, 7), (1, 1), (1000, 1000)]
)
def test_shares_and_numbers_of_edges(edges, count):
    assert count_edges(edges, 1000) == count


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (0, "has 1000 edges; got edges=0. A share is written 0.02"),
        (1001, "got edges=1001"),
        (-3, "got edges=-3"),
        (0.0, "above 0 and up to 1.0; got 0.0"),
        (1.5, "up to 1.0; got 1.5"),
        (float("nan"), "up to 1.0; got nan"),
        (True, "a number or a share of all edges; got True"),
        ("2%", "got '2%'"),
    ],
)
def test_counts_that_cannot_be(edges, message):
    with pytest.raises(CircuitError) as caught:
        count_edges(edges, 1000)
    assert message in str(caught.value)


def test_refusals():
    scores = make()
    for both in ({}, {"edges": 3, "threshold": 0.1}):
        with pytest.raises(CircuitError, match=r"either edges .* or a threshold"):
            choose_circuit(scores, **both)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(CircuitError, match="positive share of the gap"):
            choose_circuit(scores, threshold=limit)
    with pytest.raises(CircuitError, match="unknown way to choose edges 'gready'; did you mean 'greedy'"):
        choose_circuit(scores, 3, how="gready")
    with pytest.raises(CircuitError, match="the scores are NaN"):
        choose_circuit(make(clean=1.0), 3)
    wrong = make()
    wrong.effects[4] = float("nan")
    with pytest.raises(CircuitError, match="the scores are NaN"):
        choose_circuit(wrong, 3)
