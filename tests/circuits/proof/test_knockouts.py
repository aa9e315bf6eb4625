"""Completeness and minimality, where nodes stand in for one another and where they add up."""

from __future__ import annotations

import numpy as np
import pytest
from model_zoo import specimen
from random_tasks import random_task
from toy_circuits import ONE_LAYER, TWO_LAYERS, ToyRuns, any_way, head_way, make_circuit, weigh_edges

from interp.circuits.proof.completeness import measure_completeness
from interp.circuits.proof.minimality import measure_minimality
from interp.circuits.runs import prepare_circuits
from interp.errors import CircuitError

HEADS = ("a0.h0", "a0.h1", "a0.h2")


def complete(runs, circuit, **options):
    return measure_completeness(runs, circuit, progress=False, **{"n_random": 0, "greedy_steps": 0} | options)


def heads(*numbers):
    return make_circuit(ONE_LAYER, [edge for head in numbers for edge in head_way(head)])


@pytest.fixture
def backups():
    """Any of three heads does the whole task."""
    return ToyRuns(ONE_LAYER, any_way(ONE_LAYER, [head_way(head) for head in range(3)]))


@pytest.fixture
def sums():
    """The heads add 4, 2 and 1 for their whole ways, and nothing else counts."""
    weights = np.zeros((ONE_LAYER.n_edges, 2))
    for head, weight in enumerate((4.0, 2.0, 1.0)):
        weights[ONE_LAYER.find_edge(head_way(head)[1])] = [weight, 3 * weight]
    return ToyRuns(ONE_LAYER, weigh_edges(weights))


def test_a_missing_backup_is_found_once_what_it_stands_in_for_is_gone(backups):
    found = complete(backups, heads(0))
    assert [one.name for one in found.sets] == ["nothing", "a0.h0"]
    assert found.incompleteness.tolist() == [0.0, 1.0]
    assert found.circuit.mean(1).tolist() == [1.0, 0.0]
    assert found.model.mean(1).tolist() == [1.0, 1.0]
    assert found.worst == 1
    assert complete(backups, heads(0, 1, 2)).incompleteness.tolist() == [0.0] * 4


def test_greedy_search_finds_a_pair_that_no_single_node_shows(backups):
    found = complete(backups, heads(0, 1), greedy_steps=2)
    kinds = [one.kind for one in found.sets]
    assert kinds == ["nothing", "single", "single", "greedy", "greedy"]
    assert found.incompleteness.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert set(found.sets[-1].nodes) == {"a0.h0", "a0.h1"}
    assert len(complete(backups, heads(0, 1), greedy_steps=9).sets) == 5


def test_greedy_search_takes_the_worst_node_first():
    """Only the first head has a backup, and the circuit does not know it."""

    def metric(included):
        first, second, backup = (included[ONE_LAYER.find_edges(head_way(head))].all() for head in range(3))
        return np.full(2, 2.0 * (first or backup) + second)

    found = complete(ToyRuns(ONE_LAYER, metric), heads(1, 0), greedy_steps=2)
    assert [one.nodes for one in found.sets[-2:]] == [("a0.h0",), ("a0.h0", "a0.h1")]
    assert found.incompleteness.tolist() == pytest.approx([0.0, 2.0, 0.0, 2.0, 2.0])


def test_what_is_missing_stays_missing_where_parts_add_up(sums):
    found = complete(sums, heads(1, 2))
    assert found.shares.tolist() == pytest.approx([4 / 7] * 3)
    assert found.circuit.mean(1).tolist() == pytest.approx([6.0, 2.0, 4.0])
    assert found.model.mean(1).tolist() == pytest.approx([14.0, 10.0, 12.0])


def test_random_sets_and_named_groups(backups):
    circuit = heads(0, 1, 2)
    found = complete(backups, circuit, n_random=30, groups={"movers": ["a0.h2", "a0.h0"]})
    drawn = [one.nodes for one in found.sets if one.kind == "random"]
    assert len(drawn) == 30
    assert {len(nodes) for nodes in drawn} == {1, 2, 3}
    assert all(nodes == tuple(sorted(nodes)) and set(nodes) <= set(HEADS) for nodes in drawn)
    assert found.sets[-1].name == "movers"
    again, other = (complete(backups, circuit, n_random=30, seed=seed) for seed in (0, 1))
    assert [one.nodes for one in again.sets if one.kind == "random"] == drawn
    assert [one.nodes for one in other.sets if one.kind == "random"] != drawn
    with pytest.raises(CircuitError, match="group 'mlps' must hold nodes of the circuit"):
        complete(backups, circuit, groups={"mlps": ["m0"]})


def test_what_stands_in_for_another_is_minimal_only_beside_it(backups):
    alone = measure_minimality(backups, heads(0, 1), n_random=0)
    assert alone.names == HEADS[:2]
    assert alone.scores.tolist() == [0.0, 0.0]
    assert alone.unneeded() == HEADS[:2]
    found = measure_minimality(backups, heads(0, 1), n_random=6)
    assert found.n_sets == 7
    assert found.changes.tolist() == [0.0, 0.0]
    assert found.scores.tolist() == [1.0, 1.0]
    assert found.beside == (("a0.h1",), ("a0.h0",))


def test_an_item_is_tried_beside_the_rest_of_a_set_that_it_is_in():
    def metric(included):
        first, second, third = (included[ONE_LAYER.find_edges(head_way(head))].all() for head in range(3))
        return np.full(2, 2.0 * (first or second) + third)

    runs = ToyRuns(ONE_LAYER, metric)
    both = next(s for s in range(50) if set(np.random.default_rng(s).permutation(3)[:2]) == {0, 1})
    found = measure_minimality(runs, heads(0, 1, 2), n_random=1, seed=both)
    assert found.scores.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert found.beside[:2] == (("a0.h1",), ("a0.h0",))


def test_nodes_and_edges_are_worth_what_they_add(sums):
    nodes = measure_minimality(sums, heads(0, 1, 2))
    assert nodes.scores.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert nodes.changes.tolist() == pytest.approx([-4 / 7, -2 / 7, -1 / 7])
    assert nodes.alone[0].tolist() == pytest.approx([-4.0, -12.0])
    edges = measure_minimality(sums, heads(0, 1, 2), "edges")
    assert edges.n_sets == 1
    assert edges.beside == ((),) * 6
    # an edge takes its way with it
    for name, score in zip(edges.names, edges.scores.tolist(), strict=True):
        head = next(h for h in range(3) if name in head_way(h))
        assert score == pytest.approx([4 / 7, 2 / 7, 1 / 7][head])


def test_edges_beside_nodes(backups):
    found = measure_minimality(backups, heads(0, 1), "edges", n_random=6)
    assert found.scores.tolist() == [1.0] * 4
    for name, beside in zip(found.names, found.beside, strict=True):
        assert beside == (("a0.h1",) if name in head_way(0) else ("a0.h0",))


def test_what_opposes_the_answer_shows_in_the_sign():
    weights = np.zeros((ONE_LAYER.n_edges, 2))
    weights[ONE_LAYER.find_edge("a0.h0->logits")] = 3.0
    weights[ONE_LAYER.find_edge("a0.h1->logits")] = -1.0
    found = measure_minimality(ToyRuns(ONE_LAYER, weigh_edges(weights)), heads(0, 1))
    assert found.changes.tolist() == pytest.approx([-1.5, 0.5])
    assert found.scores.tolist() == pytest.approx([1.5, 0.5])


def test_refusals(backups):
    nothing = make_circuit(ONE_LAYER, [])
    direct = make_circuit(ONE_LAYER, ["input->logits"])
    for circuit in (nothing, direct):
        with pytest.raises(CircuitError, match="no node to knock out beside input and logits"):
            complete(backups, circuit)
    with pytest.raises(CircuitError, match="no edges"):
        measure_minimality(backups, nothing, "edges")
    assert measure_minimality(backups, direct, "edges").names == ("input->logits",)
    with pytest.raises(CircuitError, match="did you mean 'nodes'"):
        measure_minimality(backups, heads(0), "node")
    with pytest.raises(CircuitError, match="graph of 46 edges"):
        complete(backups, make_circuit(TWO_LAYERS, ["input->logits"]))


def test_on_a_model_it_is_what_running_the_circuits_gives():
    model = specimen("gpt2").model
    task = random_task([6, 6, 6], "right", [2, 1, 3], seed=1)
    runs = prepare_circuits(model, task, progress=False)
    direct = ["input->a0.h1<v>", "a0.h1->m0", "m0->logits", "input->m0", "a0.h1->logits"]
    circuit = make_circuit(runs.graph, direct)
    found = complete(runs, circuit)
    whole = circuit.with_included(~circuit.included | circuit.included, "all")
    assert [one.name for one in found.sets] == ["nothing", "a0.h1", "m0"]
    for row, name in ((1, "a0.h1"), (2, "m0")):
        for got, of in ((found.circuit, circuit), (found.model, whole)):
            wanted = runs.score(of.without_nodes([name]))[0]
            assert got[row].numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
    least = measure_minimality(runs, circuit, "edges")
    wanted = runs.score(circuit.without_edges(["input->m0"]))[0] - runs.score(circuit)[0]
    assert least.alone[least.names.index("input->m0")].numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
