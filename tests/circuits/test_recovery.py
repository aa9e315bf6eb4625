"""Known circuits found by exact edges, to the number, and measured against what estimates find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_circuits import PLAIN, make_circuit, make_edge_scores
from naive_edges import naive_edge_effect_of
from naive_planted import Direct, Patching

import interp
from interp.errors import CircuitError
from interp.models.bundled.planted import PLANTED, PlantedModel, compiled_model

COMPILED = tuple(f"compiled-{seed}" for seed in range(4))
NAMES = (*PLANTED, *COMPILED)


def planted(name: str) -> PlantedModel:
    return PLANTED[name] if name in PLANTED else compiled_model(int(name.split("-")[1]))


@pytest.fixture(params=NAMES, scope="module")
def direct(request):
    return Direct(planted(request.param))


@pytest.fixture(scope="module")
def task(direct):
    return planted(direct.circuit.name).make_pairs(16, 3)


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_exact_edges_find_the_whole_circuit_and_nothing_else(direct, task, direction):
    model = interp.load_model(direct.model, tokenizer=direct.tokenizer)
    scores = interp.score_edges(model, task, method="exact", direction=direction, progress=False)
    found = interp.measure_recovery(scores, direct.circuit.edges)
    assert found.auroc == found.average_precision == found.at_n_true.f1 == 1.0
    assert found.nodes.auroc == 1.0 or not found.nodes.is_defined
    assert found.missed == found.mistaken == []
    assert found.provenance == scores.provenance
    if direction == "noise":
        # the same numbers as a forward of the test's own
        patching = Patching(direct, task, direction)
        effects = {edge: share * float(patching.range) for edge, (share, _) in patching.of_edges().items()}
        expected = torch.tensor([effects[name] for name in scores.graph.edge_names(range(len(effects)))])
        torch.testing.assert_close(scores.effects, expected, atol=1e-4, rtol=1e-4)


def test_bundled_models_are_those_of_the_circuits():
    model, task = interp.load_model("planted-chain"), PLANTED["planted-chain"].make_pairs(16, 3)
    circuit = PLANTED["planted-chain"].build()[2]
    scores = interp.score_edges(model, task, method="exact", progress=False)
    assert interp.measure_recovery(scores, circuit.edges).auroc == 1.0
    edge = "m0->m1"
    naive = naive_edge_effect_of(model, task, edge, scores.graph)
    assert float(scores.effects[scores.graph.find_edge(edge)]) == pytest.approx(naive, abs=1e-5)


def test_estimates_that_miss_are_told():
    """A first-order estimate sees no edge into a ReLU that is flat at the base run: half of micro's XOR."""
    model, task = interp.load_model("micro"), PLANTED["micro"].make_pairs(16, 3)
    circuit = PLANTED["micro"].build()[2]
    scores = interp.score_edges(model, task, method="eap", progress=False)
    found = interp.measure_recovery(scores, circuit.edges)
    assert found.missed == ["input->a0.h2<v>", "a0.h2->a1.h1<v>", "a1.h1->m1"]
    # 7 edges above all others, 3 among 100 equal ones
    assert found.auroc == (7 + 3 / 2) / 10
    assert found.average_precision == pytest.approx(0.7 + 0.3 * 10 / 110)
    integrated = interp.score_edges(model, task, method="eap-ig", progress=False)
    assert interp.measure_recovery(integrated, circuit.edges).auroc == 1.0


def test_the_truth_as_a_circuit_and_as_names():
    scores, circuit = make_edge_scores(seed=1), make_circuit(seed=2)
    by_circuit = interp.measure_recovery(scores, circuit)
    by_names = interp.measure_recovery(scores, list(circuit.edges))
    assert torch.equal(by_circuit.is_true, circuit.included)
    assert torch.equal(by_circuit.is_true, by_names.is_true)
    assert by_circuit.auroc == by_names.auroc
    own = interp.measure_recovery(scores, make_circuit(seed=1, prune=False))
    assert own.auroc == 1.0


def test_a_methods_own_magnitude_is_what_ranks():
    scores = make_edge_scores()
    magnitude = torch.zeros(PLAIN.n_edges)
    magnitude[7] = 1e3
    found = interp.measure_recovery(replace(scores, magnitude=magnitude), [PLAIN.edge_name(7)])
    assert found.auroc == 1.0
    assert interp.measure_recovery(scores, [PLAIN.edge_name(7)]).auroc < 1.0


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (["a0.h1->m9"], "edge 'a0.h1->m9': nothing reads as 'm9'"),
        (["a0.h1->m1@END"], "cannot read edge"),
        ([], "0 of 262 edges are true"),
        (PLAIN.edge_names(range(PLAIN.n_edges)), "262 of 262 edges are true"),
        ("m0->logits", "the one string 'm0->logits'"),
    ],
)
def test_truths_that_mean_nothing(truth, message):
    with pytest.raises(CircuitError, match=message):
        interp.measure_recovery(make_edge_scores(), truth)


def test_scores_that_rank_nothing():
    with pytest.raises(CircuitError, match="262 of 262 edges have no magnitude"):
        interp.measure_recovery(
            make_edge_scores(effects=torch.full((PLAIN.n_edges,), float("nan"))), ["m0->logits"]
        )
    other = make_circuit(replace(PLAIN, n_layers=2))
    with pytest.raises(
        CircuitError, match=r"of a graph of 262 edges, the true circuit of another with 1\d\d"
    ):
        interp.measure_recovery(make_edge_scores(), other)
