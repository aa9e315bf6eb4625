"""Overlap of circuits: counts by hand, and chance by trying every set."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_circuits import TWO_LAYERS

import interp
from interp.circuits.reuse.chance import edge_strata, share_by_chance
from interp.errors import CircuitError
from interp.results import Circuit, EdgeScores, Graph, Provenance


def circuit(*edges: str, graph: Graph = TWO_LAYERS, task: str = "ioi") -> Circuit:
    made = Provenance("toy", task=task, n_prompts=8, metric="logit_diff", method="eap", seconds=1.0)
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(edges))] = True
    return Circuit(graph, included, "by hand", made)


def scores(values: np.ndarray, task: str = "ioi", graph: Graph = TWO_LAYERS) -> EdgeScores:
    made = Provenance("toy", task=task, method="eap", direction="noise")
    return EdgeScores(graph, -torch.from_numpy(values), 1.0, 0.0, made)


def all_sets(sizes: list[int], strata: np.ndarray) -> list[frozenset[int]]:
    """Every set with so many items of every stratum."""
    parts = [
        list(itertools.combinations(np.flatnonzero(strata == number).tolist(), size))
        for number, size in enumerate(sizes)
    ]
    return [frozenset(itertools.chain(*chosen)) for chosen in itertools.product(*parts)]


@pytest.mark.parametrize(
    ("first", "second", "strata"),
    [
        ([1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]),
        ([1, 1, 0, 0, 0, 1, 0], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 2]),
        ([1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]),
        ([0, 0, 0], [1, 1, 0], [0, 1, 1]),
    ],
)
def test_chance_is_that_of_trying_every_two_sets(first, second, strata):
    first, second, strata = (np.array(x) for x in (first, second, strata))
    first, second = first.astype(bool), second.astype(bool)
    found = share_by_chance(first, second, strata)
    sizes = [[int(one[strata == s].sum()) for s in range(strata.max() + 1)] for one in (first, second)]
    pairs = list(itertools.product(*(all_sets(size, strata) for size in sizes)))
    shared = [len(a & b) for a, b in pairs]
    for observed in range(len(first) + 1):
        assert found.at_least(observed) == pytest.approx(np.mean([n >= observed for n in shared]))
    for share in (0.026, 0.501, 0.974):
        exact = next(n for n in range(len(first) + 1) if np.mean([k <= n for k in shared]) >= share)
        assert found.quantile(share) == exact


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60))
def test_mean_of_chance_is_the_sum_over_strata(items):
    first, second, codes = (np.array(column) for column in zip(*items, strict=True))
    strata = np.unique(codes, return_inverse=True)[1]
    found = share_by_chance(first, second, strata)
    expected = sum(
        first[strata == s].sum() * second[strata == s].sum() / (strata == s).sum() for s in np.unique(strata)
    )
    numbers = found.first + np.arange(len(found.chances))
    assert (numbers * found.chances).sum() == pytest.approx(expected, abs=1e-9)
    assert found.at_least(0) == pytest.approx(1.0)


def test_chance_of_large_sets_is_quick_and_keeps_small_probabilities():
    n = 200_000
    first = np.arange(n) < 4000
    second = (np.arange(n) >= 3000) & (np.arange(n) < 7000)
    found = share_by_chance(first, second, np.arange(n) % 90)
    # as good as normal: mean 80, standard deviation just under 9
    assert found.quantile(0.5) == pytest.approx(80, abs=1)
    assert 0 < found.at_least(170) < 1e-15
    assert found.at_least(1000) == 0


def test_strata_are_kinds_of_readers_by_layer_and_position():
    graph = Graph(n_layers=2, n_heads=2, n_kv_heads=1, d_mlp=4, positions=("S", "END", "other"))
    strata = edge_strata(graph)
    keys = {}
    for edge in range(graph.n_edges):
        reader = graph.readers[graph.edge_reader[edge]]
        keys.setdefault((reader.kind, reader.layer, int(graph.edge_position[edge])), set()).add(
            int(strata[edge])
        )
    assert all(len(numbers) == 1 for numbers in keys.values())
    assert len(set.union(*keys.values())) == len(keys) == int(strata.max()) + 1


def test_counts_measures_and_chance_of_circuits():
    one = circuit("input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->logits")
    two = circuit("input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->m1", "m1->logits", task="sva")
    far = circuit("input->logits", task="gt")
    found = interp.compare_circuits({"one": one, "two": two, "far": far})
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    assert found.shared.tolist() == [[2, 0, 0]]
    assert found.iou[0].tolist() == pytest.approx([2 / 5, 0, 0])
    assert found.coefficient[0].tolist() == pytest.approx([2 / 3, 0, 0])
    assert found.matrix("coefficient")[1].tolist() == pytest.approx([2 / 3, 1, 0])
    n = TWO_LAYERS.n_edges
    at_least_2 = sum(math.comb(4, k) * math.comb(n - 4, 3 - k) for k in (2, 3)) / math.comb(n, 3)
    assert float(found.p_values[0, 0, 0]) == pytest.approx(at_least_2)
    assert (found.provenance.task, found.provenance.n_prompts, found.provenance.seconds) == (
        "ioi, sva, gt",
        8,
        3.0,
    )


def test_circuits_alike_only_in_their_layers_are_told_apart_from_chance_by_sizes_alone():
    """Predicted: edges drawn within one layer's queries share what the strata say, and more than sizes say."""
    graph = Graph(n_layers=6, n_heads=8, n_kv_heads=8, d_mlp=4)
    strata = edge_strata(graph)
    late = np.flatnonzero(strata == strata[graph.find_edge("input->a5.h0<q>")])
    rng = np.random.default_rng(0)
    made = [scores(np.zeros(graph.n_edges), graph=graph) for _ in range(2)]
    circuits = {}
    for number, one in enumerate(made):
        included = torch.zeros(graph.n_edges, dtype=torch.bool)
        included[rng.choice(late, 100, replace=False)] = True
        circuits[str(number)] = Circuit(graph, included, "late", one.provenance)
    uniform, stratified = interp.compare_circuits(circuits).p_values[:, 0, 0].tolist()
    assert uniform < 1e-10
    assert 0.01 < stratified <= 1


def test_nodes_and_heads_leave_out_what_every_circuit_has():
    one = circuit("input->a0.h0<v>", "a0.h0->m1", "m1->logits")
    two = circuit("input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->m1", "m1->logits")
    nodes = interp.compare_circuits({"one": one, "two": two}, level="nodes")
    assert (nodes.n_items, nodes.sizes.tolist(), nodes.shared.tolist()) == (6, [[2, 3]], [[1]])
    heads = interp.compare_circuits({"one": one, "two": two}, level="heads")
    assert (heads.n_items, heads.sizes.tolist(), heads.shared.tolist()) == (4, [[1, 2]], [[0]])


def test_heads_are_drawn_layer_by_layer_and_mlps_together():
    one = circuit("input->a0.h0<v>", "a0.h0->a1.h1<k>", "a1.h1->m1", "m1->logits")
    # both heads the same: of 6 pairs of heads one, of 2 x 2 with one of each layer one; and then one MLP of two
    heads = interp.compare_circuits({"one": one, "two": one}, level="heads")
    assert heads.p_values.flatten().tolist() == pytest.approx([1 / 6, 1 / 4])
    nodes = interp.compare_circuits({"one": one, "two": one}, level="nodes")
    assert nodes.p_values.flatten().tolist() == pytest.approx([1 / 20, 1 / 8])


def test_scores_are_cut_as_circuits_are_chosen():
    rng = np.random.default_rng(1)
    base = rng.normal(size=TWO_LAYERS.n_edges)
    given = {
        name: scores(base + noise * rng.normal(size=len(base)), name) for name, noise in (("a", 0), ("b", 1))
    }
    found = interp.compare_circuits(given, [0.2, 0.5, 1.0], how="greedy", signed=True)
    assert (found.cut_by, found.cuts) == ("fraction", (0.2, 0.5, 1.0))
    for row, fraction in enumerate(found.cuts):
        chosen = [interp.choose_circuit(one, fraction, how="greedy", signed=True) for one in given.values()]
        assert found.sizes[row].tolist() == [one.n_edges for one in chosen]
        assert int(found.shared[row, 0]) == chosen[0].intersection(chosen[1]).n_edges
    found = interp.compare_circuits(given, thresholds=[0.5, 1.0], prune=False)
    assert found.cut_name(1) == "edges from 1 of the gap"
    assert found.sizes[1, 0] == int((np.abs(base) >= 1.0).sum())
    assert interp.compare_circuits(given).cuts == (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def test_empty_circuits_have_no_overlap():
    none = circuit().with_included(np.zeros(TWO_LAYERS.n_edges, dtype=bool), "none")
    some = circuit("input->logits")
    found = interp.compare_circuits({"none": none, "too": none, "some": some})
    assert found.iou[0].isnan().tolist() == [True, False, False]
    assert found.coefficient[0].isnan().tolist() == [True, True, True]
    assert found.p_values.flatten().tolist() == [1.0] * 6


def test_refusals():
    one = circuit("input->logits")
    other = circuit("input->logits", graph=Graph(n_layers=1, n_heads=3, n_kv_heads=3, d_mlp=4))
    whole = scores(np.ones(TWO_LAYERS.n_edges))
    with pytest.raises(CircuitError, match="at least two circuits"):
        interp.compare_circuits({"one": one})
    with pytest.raises(CircuitError, match="'one' and 'other' have different graphs"):
        interp.compare_circuits({"one": one, "other": other})
    with pytest.raises(CircuitError, match="one kind for all; got a: Circuit, b: EdgeScores"):
        interp.compare_circuits({"a": one, "b": whole})
    with pytest.raises(CircuitError, match="compared as they are"):
        interp.compare_circuits({"a": one, "b": one}, [0.1])
    with pytest.raises(CircuitError, match="fractions or thresholds, not both"):
        interp.compare_circuits({"a": whole, "b": whole}, [0.1], thresholds=[0.1])
    with pytest.raises(CircuitError, match="none twice"):
        interp.compare_circuits({"a": whole, "b": whole}, [0.1, 0.1])
    with pytest.raises(CircuitError, match="did you mean 'edges'"):
        interp.compare_circuits({"a": one, "b": one}, level="edge")
    with pytest.raises(CircuitError, match="confidence must lie"):
        interp.compare_circuits({"a": one, "b": one}, confidence=1.0)
