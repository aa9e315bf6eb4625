"""Faithfulness curves: exact on formulas, and the same as by hand on a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task
from toy_circuits import (
    ONE_LAYER,
    TWO_LAYERS,
    ToyRuns,
    any_way,
    head_way,
    make_circuit,
    make_edge_scores,
    weigh_edges,
)

from interp.circuits.choose import choose_circuit
from interp.circuits.proof.faithfulness import measure_faithfulness
from interp.circuits.runs import prepare_circuits
from interp.errors import CircuitError, PatchError

N = ONE_LAYER.n_edges
DIRECT = "input->logits"


def measure(scores, runs, **options):
    return measure_faithfulness(None, None, scores, runs=runs, progress=False, **{"nulls": ()} | options)


@pytest.fixture
def weights():
    """Only ways through the values of heads weigh anything, and each head's twice the next one's."""
    found = np.zeros((N, 3))
    for head, weight in enumerate((4.0, 2.0, 1.0)):
        found[ONE_LAYER.find_edges(head_way(head))] = [[weight, 2 * weight, 0.5 * weight]]
    return found


def test_curve_areas_and_realised_edges_are_those_counted_by_hand(weights):
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights, base=np.array([-1.0, 0.0, 1.0])))
    scores = make_edge_scores(ONE_LAYER, weights.mean(1))
    fractions = (1 / N, 2 / N, 3 / N, 4 / N, 6 / N, 1.0)
    found = measure(scores, runs, fractions=fractions)
    assert found.methods == ("exact",)
    assert found.n_edges.tolist() == [[0, 2, 2, 4, 6, N]]
    f = np.array([0, 4, 4, 6, 7, 7]) / 7
    assert found.values[0].numpy() == pytest.approx(f)
    assert found.full.tolist() == pytest.approx([13.0, 28.0, 8.0])
    assert found.empty.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert found.per_prompt[0, 1].tolist() == pytest.approx([7.0, 16.0, 5.0])
    steps = np.diff(fractions)
    assert found.cpr[0].value == pytest.approx((steps * (f[1:] + f[:-1]) / 2).sum())
    assert found.cmd[0].value == pytest.approx((steps * (2 - f[1:] - f[:-1]) / 2).sum())
    # every prompt has the same shares, so no resample can differ
    assert found.low.numpy() == pytest.approx(found.values.numpy(), abs=1e-6)
    assert found.high.numpy() == pytest.approx(found.values.numpy(), abs=1e-6)
    assert found.cpr[0].low == pytest.approx(found.cpr[0].high)


def test_distance_counts_what_lies_above_1_too(weights):
    weights[ONE_LAYER.find_edges(["input->m0", "m0->logits"])] = -2.0
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights))
    scores = make_edge_scores(ONE_LAYER, weights.mean(1))
    found = measure(scores, runs, fractions=(0.5, 1.0), signed=True)
    over = found.values[0, 0]
    assert over == found.values[0, 1] > 1
    assert found.cpr[0].value == pytest.approx(float(over) / 2)
    assert found.cmd[0].value == pytest.approx((float(over) - 1) / 2)


def test_perfect_scores_have_a_cpr_of_0999_on_the_grid_of_mib(weights):
    direct = np.zeros((N, 3))
    direct[ONE_LAYER.find_edge(DIRECT)] = 1.0
    found = measure(make_edge_scores(ONE_LAYER, direct.mean(1)), ToyRuns(ONE_LAYER, weigh_edges(direct)))
    assert found.cpr[0].value == pytest.approx(0.999)
    assert found.cmd[0].value == pytest.approx(0.0)


@pytest.mark.parametrize("how", ["top", "greedy"])
def test_circuits_are_chosen_as_asked(weights, how):
    scores = make_edge_scores(ONE_LAYER, np.random.default_rng(1).normal(size=N))
    found = measure(scores, ToyRuns(ONE_LAYER, weigh_edges(weights)), fractions=(0.2, 0.4), how=how)
    chosen = [choose_circuit(scores, k, how=how) for k in (0.2, 0.4)]
    assert found.n_edges[0].tolist() == [circuit.n_edges for circuit in chosen]


def test_intervals_come_from_the_prompts(weights):
    rng = np.random.default_rng(0)
    noisy = weights * rng.uniform(0.2, 2, size=(1, 3)) + rng.normal(size=(N, 3)) * (weights > 0)
    scores = make_edge_scores(ONE_LAYER, weights.mean(1))
    found = measure(scores, ToyRuns(ONE_LAYER, weigh_edges(noisy)), fractions=(2 / N, 4 / N, 1.0))
    assert (found.low <= found.values + 1e-6).all()
    assert (found.values <= found.high + 1e-6).all()
    assert found.low[0, 0] < found.high[0, 0] - 0.01
    assert found.cpr[0].low < found.cpr[0].value < found.cpr[0].high
    assert found.low[0, -1] == found.high[0, -1] == 1
    narrow = measure(scores, ToyRuns(ONE_LAYER, weigh_edges(noisy)), fractions=(2 / N, 1.0), confidence=0.5)
    assert narrow.high[0, 0] - narrow.low[0, 0] < found.high[0, 0] - found.low[0, 0]


def test_methods_stand_side_by_side_and_no_circuit_runs_twice(weights):
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights))
    good = make_edge_scores(ONE_LAYER, weights.mean(1))
    bad = make_edge_scores(ONE_LAYER, 1 / (1 + weights.mean(1)), method="eap")
    found = measure({"good": good, "bad": bad, "same": good}, runs, fractions=(0.5, 0.25, 0.5, 1.0))
    assert found.methods == ("good", "bad", "same")
    assert found.fractions == (0.25, 0.5, 1.0)
    assert found.cpr[0].value > found.cpr[1].value
    assert found.cpr[0] == found.cpr[2]
    assert len({row.tobytes() for row in runs.asked}) == len(runs.asked) <= 4
    assert found.provenance.method == "exact, eap"


def test_random_circuits_of_every_kind(weights):
    scores = make_edge_scores(ONE_LAYER, weights.mean(1))
    options = dict(fractions=(0.2, 0.6, 1.0), n_random=12)
    every = ("connected", "uniform", "degree")
    found = measure(
        {"a": scores, "b": scores}, ToyRuns(ONE_LAYER, weigh_edges(weights)), nulls=every, **options
    )
    assert [curve.name for curve in found.nulls] == ["connected", "uniform", "degree: a", "degree: b"]
    connected, uniform, degree, _ = found.nulls
    drawn = [round(f * N) for f in found.fractions]
    assert list(connected.n_drawn) == list(uniform.n_drawn) == drawn
    assert list(degree.n_drawn) == found.n_edges[0].tolist()
    assert connected.n_edges.max(1).values.tolist() == drawn
    assert (uniform.n_edges[0] < drawn[0]).any()
    for curve in found.nulls:
        assert curve.metric.shape == (3, 12)
        assert found.null_values(curve)[-1].numpy() == pytest.approx(np.ones(12))
    assert found.null_cpr(uniform) < found.cpr[0].value
    alone = measure(scores, ToyRuns(ONE_LAYER, weigh_edges(weights)), nulls="uniform", **options)
    assert torch.equal(alone.nulls[0].metric, uniform.metric)
    other = measure(scores, ToyRuns(ONE_LAYER, weigh_edges(weights)), nulls="uniform", seed=1, **options)
    assert not torch.equal(other.nulls[0].metric, uniform.metric)
    assert not measure(scores, ToyRuns(ONE_LAYER, weigh_edges(weights)), nulls=every, n_random=0).nulls


def test_distance_of_random_circuits_is_that_of_each_draw():
    """Half of them at 0 and half at 2 are as far from 1 as can be, and their mean is not."""
    runs = ToyRuns(ONE_LAYER, any_way(ONE_LAYER, [[DIRECT]]))
    found = measure(
        make_edge_scores(ONE_LAYER, np.arange(N) + 1.0), runs, nulls="uniform", fractions=(0.5, 1.0)
    )
    metric = torch.tensor([[0.0, 2.0] * 5, [1.0] * 10])
    curve = replace(found.nulls[0], metric=metric)
    assert found.null_cpr(curve) == pytest.approx(0.5)
    assert found.null_cmd(curve) == pytest.approx(0.25)


def test_circuits_are_their_own_fractions(weights):
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights))
    large = make_circuit(ONE_LAYER, [*head_way(0), *head_way(1), "input->m0"])
    small = make_circuit(ONE_LAYER, head_way(0))
    found = measure([large, small], runs)
    assert found.fractions == pytest.approx((2 / N, 5 / N))
    assert found.n_edges.tolist() == [[2, 4]]
    assert found.values[0].numpy() == pytest.approx([4 / 7, 6 / 7])
    one = measure([small], runs, nulls="connected")
    assert one.nulls[0].n_drawn == (2,)
    assert np.isnan(one.cpr[0].value)


def test_positions_of_random_circuits_end_where_the_scores_do():
    graph = replace(TWO_LAYERS, positions=("S", "END", "other"))
    values = np.zeros(graph.n_edges)
    values[graph.find_edges(["input->m0@END", "m0->logits@END"])] = 1.0
    runs = ToyRuns(graph, any_way(graph, [["input->m0@END", "m0->logits@END"]]))
    found = measure(make_edge_scores(graph, values), runs, nulls="connected", fractions=(0.05, 0.1))
    assert found.n_edges[0, 0] == 2
    names = [name for row in runs.asked[-20:] for name in graph.edge_names(row.nonzero()[0])]
    into_logits = [name for name in names if "->logits" in name]
    assert into_logits
    assert all(name.endswith("@END") for name in into_logits)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_on_a_model_it_is_what_running_the_circuits_gives(name):
    model = specimen(name).model
    task = random_task([6, 6, 6], "right", [2, 1, 3], seed=1)
    runs = prepare_circuits(model, task, progress=False)
    values = np.random.default_rng(0).normal(size=runs.graph.n_edges)
    made = replace(runs.provenance("eap"), metric=None)
    scores = replace(make_edge_scores(runs.graph, values), provenance=made)
    found = measure_faithfulness(
        model, task, scores, fractions=(0.1, 0.5, 1.0), nulls="connected", n_random=2, progress=False
    )
    circuit = choose_circuit(scores, 0.5)
    metric = runs.score(circuit)[0].mean()
    wanted = (metric - runs.empty.mean()) / (runs.full.mean() - runs.empty.mean())
    assert float(found.values[0, 1]) == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)
    assert found.n_edges[0, 1] == circuit.n_edges
    assert found.values[0, 2] == 1
    assert found.provenance.model == model.name


def test_ablation_and_metric_are_those_of_the_scores():
    model = specimen("gpt2").model
    task = random_task([5, 5], "right", [2, 1], seed=1)
    graph = prepare_circuits(model, task, progress=False).graph
    scores = make_edge_scores(graph, np.arange(graph.n_edges) + 1.0, ablation="zero", metric="probability")
    options = dict(fractions=(0.5, 1.0), nulls=(), progress=False)
    found = measure_faithfulness(model, task, scores, **options)
    assert (found.provenance.ablation, found.provenance.metric) == ("zero", "probability")
    asked = measure_faithfulness(model, task, scores, ablation="source", metric="logit_diff", **options)
    assert (asked.provenance.ablation, asked.provenance.metric) == ("source", "logit_diff")
    other = make_edge_scores(graph, np.arange(graph.n_edges) + 1.0, metric="probability")
    with pytest.raises(CircuitError, match=r"different ablations.*ablation='zero'"):
        measure_faithfulness(model, task, {"a": scores, "b": other}, **options)
    both = measure_faithfulness(model, task, {"a": scores, "b": other}, ablation="zero", **options)
    assert both.methods == ("a", "b")


def test_refusals(weights):
    runs = ToyRuns(ONE_LAYER, weigh_edges(weights))
    scores = make_edge_scores(ONE_LAYER, weights.mean(1))
    circuit = make_circuit(ONE_LAYER, [DIRECT])
    for given, message in (
        ({}, "no scores given"),
        (circuit, r"list of circuits.*got Circuit"),
        ([], "list of circuits"),
        ([scores], "list of circuits"),
        ([circuit, make_circuit(TWO_LAYERS, [DIRECT])], "graph of 46 edges"),
        (make_edge_scores(TWO_LAYERS, np.ones(46)), "graph of 46 edges"),
    ):
        with pytest.raises(CircuitError, match=message):
            measure(given, runs)
    with pytest.raises(CircuitError, match=r"above 0 and up to 1; got \[0\.0, 0\.5\]"):
        measure(scores, runs, fractions=(0, 0.5))
    with pytest.raises(CircuitError, match="did you mean 'uniform'"):
        measure(scores, runs, nulls="uniforms")
    with pytest.raises(CircuitError, match="0 or more; got -1"):
        measure(scores, runs, n_random=-1)
    with pytest.raises(PatchError, match="confidence"):
        measure(scores, runs, confidence=1.0)
