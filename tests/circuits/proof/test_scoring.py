"""Each different circuit is run once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_circuits import ONE_LAYER, TWO_LAYERS, ToyRuns, head_way, make_circuit, weigh_edges

from interp.circuits.proof.scoring import absolute_changes, edges_of, score_circuits
from interp.errors import CircuitError


def arrays(*named):
    return [make_circuit(ONE_LAYER, names).included.numpy() for names in named]


def test_equal_circuits_run_once_and_trivial_ones_never():
    weights = np.random.default_rng(0).normal(size=(ONE_LAYER.n_edges, 3))
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights))
    one, same, nothing, dangling, other = arrays(
        head_way(0), (*head_way(0), "input->m0"), (), ("a0.h1->logits",), head_way(2)
    )
    everything = np.ones_like(one)
    found = score_circuits(runs, [one, everything, same, nothing, dangling, other])
    assert len(runs.asked) == 2
    assert found[0] == pytest.approx(weights[one].sum(0), rel=1e-6)
    assert found[5] == pytest.approx(weights[other].sum(0), rel=1e-6)
    assert torch.equal(found[2], found[0])
    assert torch.equal(found[1], runs.full.double())
    assert torch.equal(found[3], runs.empty.double())
    assert torch.equal(found[4], runs.empty.double())


def test_without_a_circuit_to_run_nothing_is_run():
    runs = ToyRuns(ONE_LAYER, weigh_edges(np.ones((ONE_LAYER.n_edges, 2))))
    assert score_circuits(runs, arrays(())).tolist() == [[0.0, 0.0]]
    assert not runs.asked


def test_circuits_of_another_graph_are_refused():
    runs = ToyRuns(ONE_LAYER, weigh_edges(np.ones((ONE_LAYER.n_edges, 2))))
    with pytest.raises(CircuitError, match=r"graph of 46 edges, and circuits are run on one of \d+"):
        edges_of(runs, make_circuit(TWO_LAYERS, ["input->logits"]))


def test_changes_are_absolute_on_each_prompt():
    first, second = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0])
    assert absolute_changes(first, second).tolist() == [1.0, 0.0]
