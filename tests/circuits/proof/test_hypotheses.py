"""Every test of a circuit: super-uniform under its null hypothesis, and rejecting a planted violation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_circuits import ONE_LAYER, TWO_LAYERS, ToyRuns, any_way, head_way, make_circuit, weigh_edges

from interp.circuits.proof.hypotheses import (
    check_equivalence,
    check_independence,
    check_minimality,
    check_partial_necessity,
    check_sufficiency,
)
from interp.circuits.proof.statistics import rank_p_values
from interp.errors import CircuitError

N = TWO_LAYERS.n_edges
PROMPTS = 24
HEAD = make_circuit(ONE_LAYER, head_way(0))
DIRECT = make_circuit(TWO_LAYERS, ["input->logits"])


def noisy_runs(rng, share):
    """``share`` [prompt] is what the circuit has of the gap on each prompt; the rest is the other heads'."""
    gap = rng.normal(5, 1, len(share))

    def metric(included):
        here, rest = (included[ONE_LAYER.find_edges(head_way(head))].all() for head in (0, 1))
        return gap * (share * here + (1 - share) * rest)

    return ToyRuns(ONE_LAYER, metric)


def assert_super_uniform(p_values):
    n = len(p_values)
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * math.sqrt(level * (1 - level) / n)


def test_equivalence_keeps_its_level_where_neither_is_ahead_more_often_than_allowed():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        ahead = rng.random(PROMPTS) < 0.6
        runs = noisy_runs(rng, np.where(ahead, 1.2, 0.8))
        p_values.append(check_equivalence(runs, HEAD, epsilon=0.1).p_value)
    assert_super_uniform(p_values)
    assert np.mean(np.array(p_values) <= 0.25) > 0.05


def test_equivalence_tells_a_circuit_that_is_a_little_behind_on_every_prompt():
    found = check_equivalence(noisy_runs(np.random.default_rng(0), np.full(PROMPTS, 0.98)), HEAD)
    assert found.observed.tolist() == [0.0]
    assert found.rejected
    assert not found.holds
    assert found.reference.tolist() == pytest.approx([0.4, 0.6])
    assert found.n == PROMPTS


def test_the_model_is_equivalent_to_itself():
    runs = noisy_runs(np.random.default_rng(0), np.ones(PROMPTS))
    found = check_equivalence(runs, HEAD, epsilon=0.0)
    assert found.p_value == 1
    assert found.observed.tolist() == [0.5]
    assert found.holds
    rounding = noisy_runs(np.random.default_rng(0), np.full(PROMPTS, 1 - 1e-6))
    assert check_equivalence(rounding, HEAD, epsilon=0.0).p_value == 1


def split_runs(model, rest):
    """The circuit does the whole task; without it the metric of prompts is ``rest``."""

    def metric(included):
        return model if included[ONE_LAYER.find_edges(head_way(0))].all() else rest

    return ToyRuns(ONE_LAYER, metric)


def test_independence_keeps_its_level_and_finds_what_the_rest_still_knows():
    rng = np.random.default_rng(0)
    null, some = [], []
    for seed in range(200):
        model, noise = rng.normal(size=(2, PROMPTS))
        options = dict(n_permutations=99, seed=seed)
        null.append(check_independence(split_runs(model, noise), HEAD, **options).p_value)
        some.append(check_independence(split_runs(model, 0.3 * model + 0.1 * noise), HEAD, **options).p_value)
    assert_super_uniform(null)
    assert np.mean(np.array(null) <= 0.5) > 0.35
    assert np.mean(np.array(some) <= 0.05) > 0.95


def test_independence_is_of_the_complement():
    model = np.random.default_rng(0).normal(size=PROMPTS)
    runs = split_runs(model, np.zeros(PROMPTS))
    found = check_independence(runs, HEAD)
    assert found.p_value == 1
    assert found.holds
    assert found.reference.shape == (1000,)
    assert [TWO_LAYERS.n_edges - row.sum() for row in runs.asked] != []
    assert (runs.asked[0] == ~HEAD.included.numpy()).all()
    other = make_circuit(ONE_LAYER, head_way(1))
    assert check_independence(runs, other).rejected


def scaled(weights):
    """The metric adds up over edges, each prompt by a factor of its own."""
    return ToyRuns(TWO_LAYERS, weigh_edges(np.outer(weights, [0.5, 1.0, 1.5])))


def test_minimality_names_the_edge_that_does_nothing():
    weights = np.random.default_rng(0).exponential(0.1, N)
    needed = ["input->m0", "m0->m1", "m1->logits"]
    idle = ["input->a1.h0<v>", "a1.h0->logits"]
    weights[TWO_LAYERS.find_edges(needed)] = 5.0
    weights[TWO_LAYERS.find_edges(idle)] = 0.0
    circuit = make_circuit(TWO_LAYERS, [*needed, *idle])
    found = check_minimality(scaled(weights), circuit)
    assert set(found.rejected_items) == set(idle)
    assert not found.holds
    assert found.verdict == "2 of 5 edges not needed"
    assert check_minimality(scaled(weights), make_circuit(TWO_LAYERS, needed)).holds
    rows = dict(zip(found.items, found.observed.tolist(), strict=True))
    assert rows["m1->logits"] == pytest.approx(15.0)
    assert rows["a1.h0->logits"] == pytest.approx(0.0)
    raw = check_minimality(scaled(weights), circuit, correction="none").p_values
    assert (raw <= found.p_values).all()
    assert found.p_value == pytest.approx(0.1**100 * 5)


def test_random_edges_are_taken_out_of_inflated_circuits():
    """In a metric that adds up, taking out a new edge takes exactly its own ways out with it."""
    weights = np.random.default_rng(0).exponential(1.0, N)
    runs = scaled(weights)
    circuit = make_circuit(TWO_LAYERS, ["input->m0", "m0->m1", "m1->logits"])
    n = 40
    found = check_minimality(runs, circuit, n_random=n)
    assert found.reference.shape == (n,)
    core = circuit.included.numpy()
    for row in runs.asked:
        # the circuit, the circuit less one, or the circuit and more, one of the new ones taken out or not
        assert (row & core).sum() >= core.sum() - 3
        assert (row & ~core).sum() == 0 or (row & core).sum() == core.sum()
    assert (found.reference > 0).all()


def test_minimality_keeps_its_level_at_the_edge_of_its_null_hypothesis():
    """The circuit's edge does more than 80 % of random ones, and no more: rejected no oftener than allowed."""
    rng = np.random.default_rng(0)
    graph, quantile = ONE_LAYER, 0.8
    direct = make_circuit(graph, ["input->logits"])
    weights = rng.exponential(size=graph.n_edges)
    law = check_minimality(ToyRuns(graph, weigh_edges(weights[:, None])), direct, n_random=1000).reference
    weights[graph.find_edge("input->logits")] = float(law.quantile(quantile, interpolation="higher")) + 1e-3
    runs = ToyRuns(graph, weigh_edges(weights[:, None]))
    options = dict(n_random=40, quantile=quantile)
    p_values = [check_minimality(runs, direct, seed=seed, **options).p_value for seed in range(60)]
    assert_super_uniform(p_values)


def test_sufficiency_and_necessity_speak_for_the_circuit_that_does_the_task():
    runs = ToyRuns(TWO_LAYERS, any_way(TWO_LAYERS, [["input->m0", "m0->m1", "m1->logits"]]))
    circuit = make_circuit(TWO_LAYERS, ["input->m0", "m0->m1", "m1->logits"])
    enough = check_sufficiency(runs, circuit)
    assert enough.observed.tolist() == [0.0]
    assert enough.rejected == enough.holds == (enough.p_value <= 0.05)
    assert enough.holds
    assert enough.p_value == rank_p_values(np.zeros(1), -enough.reference.numpy(), 0.9, "greater")[0]
    needed = check_partial_necessity(runs, circuit)
    assert needed.observed.tolist() == [1.0]
    assert not needed.rejected, "most random ways of three edges cross one of the circuit's"
    elsewhere = make_circuit(TWO_LAYERS, ["input->a1.h0<v>", "a1.h0->logits", "input->logits"])
    assert not check_sufficiency(runs, elsewhere).holds
    assert check_partial_necessity(runs, elsewhere).p_value == 1


@pytest.mark.parametrize("check", [check_sufficiency, check_partial_necessity])
def test_flexible_tests_keep_their_level_at_the_edge_of_their_null_hypothesis(check):
    """A random circuit that does better than 80 % of them, and no more."""
    rng = np.random.default_rng(0)
    graph, quantile = ONE_LAYER, 0.8
    runs = ToyRuns(graph, weigh_edges(rng.exponential(size=(graph.n_edges, 1))))

    def pick():
        included = torch.zeros(graph.n_edges, dtype=torch.bool)
        included[torch.from_numpy(rng.permutation(graph.n_edges)[:10])] = True
        return HEAD.with_included(included, "random")

    drawn = [pick() for _ in range(40)]
    sign = -1 if check is check_sufficiency else 1
    law = sign * check(runs, drawn[0], null="uniform", n_random=1000).reference
    beats = [
        float((sign * check(runs, c, null="uniform", n_random=29).observed > law).double().mean())
        for c in drawn
    ]
    best, circuit = max((b, i) for i, b in enumerate(beats) if b <= quantile)
    assert best > 0.7
    options = dict(quantile=quantile, null="uniform", n_random=40)
    assert_super_uniform([check(runs, drawn[circuit], seed=s, **options).p_value for s in range(60)])


def test_levels_and_counts_are_checked():
    runs = scaled(np.ones(N))
    for call, message in (
        (lambda: check_equivalence(runs, DIRECT, epsilon=0.5), "below 0.5; got 0.5"),
        (lambda: check_equivalence(runs, DIRECT, alpha=0.0), "level of a test.* got 0.0"),
        (lambda: check_independence(runs, DIRECT), "4 prompts or more.* got 3 prompts"),
        (lambda: check_minimality(runs, make_circuit(TWO_LAYERS, [])), "no edges"),
        (lambda: check_minimality(runs, DIRECT, n_random=0), "n_random=0"),
        (lambda: check_minimality(runs, DIRECT, quantile=1.0), "quantile=1.0"),
        (lambda: check_minimality(runs, DIRECT, correction="both"), "unknown correction"),
        (lambda: check_sufficiency(runs, DIRECT, n_random=28), "draw n_random=29 or more"),
        (lambda: check_partial_necessity(runs, DIRECT, n_random=43, alpha=0.01), "draw n_random=44 or more"),
        (lambda: check_sufficiency(runs, DIRECT, alpha=1.0), "level of a test.* got 1.0"),
        (lambda: check_sufficiency(runs, DIRECT, null="conected"), "did you mean 'connected'"),
        (lambda: check_partial_necessity(runs, HEAD), r"graph of \d+ edges"),
    ):
        with pytest.raises(CircuitError, match=message):
            call()


def test_tests_repeat_with_the_seed_only():
    runs = scaled(np.random.default_rng(0).exponential(size=N))
    circuit = make_circuit(TWO_LAYERS, ["input->m0", "m0->logits", "input->logits"])
    for check in (check_minimality, check_sufficiency, check_partial_necessity):
        first, again, other = (check(runs, circuit, seed=seed, n_random=30) for seed in (1, 1, 2))
        assert torch.equal(first.reference, again.reference)
        assert not torch.equal(first.reference, other.reference)
