"""All checks of one circuit together."""

from __future__ import annotations

import numpy as np
import pytest
from model_zoo import specimen
from random_tasks import random_task
from toy_circuits import TWO_LAYERS, ToyRuns, any_way, make_circuit

from interp.circuits.graph import build_graph
from interp.circuits.proof.check import check_circuit
from interp.errors import CircuitError
from interp.results import CircuitCheck

WAY = ["input->m0", "m0->m1", "m1->logits"]
TESTS = ["equivalence", "independence", "minimality", "sufficiency", "partial necessity"]


@pytest.fixture(scope="module")
def check():
    runs = ToyRuns(TWO_LAYERS, any_way(TWO_LAYERS, [WAY], prompts=6))
    circuit = make_circuit(TWO_LAYERS, [*WAY, "input->a1.h0<q>"])
    return check_circuit(None, None, circuit, runs=runs, n_random=60, progress=False)


def test_a_circuit_that_does_the_task_passes(check):
    assert check.circuit.edges == tuple(WAY), "what carries nothing is pruned first"
    assert float(check.faithfulness.values[0, 0]) == 1
    assert [curve.kind for curve in check.faithfulness.nulls] == ["connected", "degree", "uniform"]
    assert float(check.completeness.shares.max()) == 0
    assert check.minimality.scores.tolist() == [1.0, 1.0]
    assert [test.name for test in check.tests] == TESTS
    assert all(check.test(name).holds for name in TESTS[:4])
    assert check.test("minimality").items == tuple(WAY)


def test_it_says_so(check):
    text = check.summary()
    assert text.startswith("3 of 46 edges, 4 nodes\nfaithfulness 1.00 [1.00, 1.00]")
    assert "random connected circuits: " in text
    assert "minimality: p = 1, no edge shown to be unneeded" in text
    frame = check.to_frame()
    assert list(frame.test) == TESTS
    assert frame.holds.tolist()[:4] == [True] * 4


def test_it_is_saved_whole(check, tmp_path):
    read = CircuitCheck.load(check.save(tmp_path / "check"))
    assert read.summary() == check.summary()
    assert read.to_frame().equals(check.to_frame())
    assert read.circuit.edges == check.circuit.edges


def test_on_a_model(capsys):
    model = specimen("gpt2").model
    task = random_task([6] * 5, "right", [2, 1, 3, 2, 2], seed=1)
    graph = build_graph(model)
    circuit = make_circuit(graph, ["input->m0", "m0->m1", "input->a1.h0<v>", "a1.h0->m1", "m1->logits"])
    found = check_circuit(model, task, circuit, n_random=5, quantile=0.5, n_sets=3, seed=3, progress=False)
    again = check_circuit(model, task, circuit, n_random=5, quantile=0.5, n_sets=3, seed=3, progress=False)
    assert found.summary() == again.summary()
    assert found.provenance.ablation == "source"
    assert len(found.completeness.sets) == 1 + 3 + 3 + 3
    assert np.isfinite([test.p_value for test in found.tests]).all()
    assert capsys.readouterr().err == ""


def test_circuits_without_a_node_are_refused():
    runs = ToyRuns(TWO_LAYERS, any_way(TWO_LAYERS, [WAY]))
    with pytest.raises(CircuitError, match="no node to knock out"):
        check_circuit(None, None, make_circuit(TWO_LAYERS, ["input->logits"]), runs=runs, progress=False)
