"""Codes of heads: counts against sets written out, rankings against definitions, circuits edge by edge."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import CircuitError, RecordError
from interp.results import CoderFit, DiscreteCircuit, Graph, Provenance
from interp.results.code_counts import count_unique, count_unique_pairs
from interp.results.head_ranking import mark_heads, measure_ranking


def make(
    codes=None, seed: int = 0, n: int = 12, n_layers: int = 3, n_heads: int = 2, **changes
) -> DiscreteCircuit:
    """``n`` prompts a side, every second held out; few codes, so that many scores tie."""
    draw = torch.Generator().manual_seed(seed)
    if codes is None:
        codes = torch.randint(0, 6, (2 * n, n_layers, n_heads), generator=draw, dtype=torch.int32)
    shape = codes.shape[1:]
    known = dict(
        codes=codes,
        positive=torch.arange(len(codes)) < len(codes) / 2,
        held_out=torch.arange(len(codes)) % 2 == 1,
        n_latents=5,
        normalised=False,
        paired=True,
        p_values=torch.rand(shape, generator=draw),
        family_p_values=torch.rand(shape, generator=draw),
        null_means=torch.rand(shape, generator=draw),
        n_shuffles=99,
        fit=CoderFit(0.1, 0.2, 3.5),
        provenance=Provenance("m", task="t", notes=("a note",)),
    )
    return DiscreteCircuit(**known | changes)


def in_sets(positive: list, negative: list) -> tuple[int, int]:
    return len(set(positive) - set(negative)), len(set(positive) | set(negative))


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
def test_counts_are_those_of_sets(seed, n, n_layers, n_heads, width):
    codes = np.random.default_rng(seed).integers(0, width, (2 * n, n_layers, n_heads))
    positive = np.random.default_rng(seed + 1).permutation(np.arange(2 * n) < n)
    unique, union = count_unique(codes, positive)
    heads = list(itertools.product(range(n_layers), range(n_heads)))
    for layer, head in heads:
        column = codes[:, layer, head]
        expected = in_sets(column[positive].tolist(), column[~positive].tolist())
        assert (unique[layer, head], union[layer, head]) == expected
    unique, union = count_unique_pairs(codes, positive)
    for (i, one), (j, other) in itertools.product(enumerate(heads), repeat=2):
        pairs = list(zip(codes[:, *one].tolist(), codes[:, *other].tolist(), strict=True))
        sides = [
            [pair for pair, p in zip(pairs, positive, strict=True) if p == side] for side in (True, False)
        ]
        expected = in_sets(*sides) if one[0] < other[0] else (0, 0)
        assert (unique[i, j], union[i, j]) == expected


def test_scores_are_counted_on_each_part_alone():
    codes = torch.zeros(8, 2, 1, dtype=torch.int32)
    # positives 0..3, negatives 4..7, odd ones held out
    codes[:, 0, 0] = torch.tensor([1, 2, 3, 0, 1, 2, 0, 4])
    codes[:, 1, 0] = torch.tensor([0, 1, 1, 0, 0, 0, 5, 5])
    made = make(codes)
    assert made.head_scores("train").tolist() == [[1.0], [1.0]]
    assert made.head_scores().tolist() == [[1.0], [1.0]]
    assert made.head_variety().tolist() == [[3.0], [3.0]]
    assert made.edge_scores()[0, 1] == 2
    assert made.edge_scores("train")[0, 1] == 1
    shares = replace(made, normalised=True)
    assert shares.head_scores().flatten().tolist() == pytest.approx([1 / 3, 1 / 3])
    assert float(shares.edge_scores()[0, 1]) == pytest.approx(2 / 4)
    torch.testing.assert_close(made.excess, made.head_scores() - made.null_means)


def test_edges_lead_to_later_layers_only():
    scores = make().edge_scores()
    layer = np.arange(6) // 2
    assert (scores.isnan().numpy() == ~(layer[:, None] < layer)).all()


def test_probabilities_are_a_softmax_over_all_heads():
    made = make()
    scores = made.head_scores()
    expected = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(made.head_probabilities(), expected)
    assert float(made.head_probabilities("train").sum()) == pytest.approx(1)


def test_usage_is_the_share_of_prompts():
    made = make()
    positive, negative = made.code_usage()
    assert positive.shape == (6, 6)
    rows = [row for row in range(12) if row % 2]
    for head, code in itertools.product(range(6), range(6)):
        found = [int(made.codes[row, head // 2, head % 2]) == code for row in rows]
        assert float(positive[head, code]) == pytest.approx(np.mean(found))
    torch.testing.assert_close(negative.sum(1), torch.ones(6))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=12))
def test_rankings_are_judged_as_defined(items):
    scores, truth = np.array([float(s) for s, _ in items]), np.array([t for _, t in items])
    if truth.all() or not truth.any():
        with pytest.raises(CircuitError, match="true items against others"):
            measure_ranking(scores, truth)
        return
    found = measure_ranking(scores, truth)
    wins = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    assert found.auroc == pytest.approx(np.mean(wins))
    precision, recall, f1, harmonic = [], [0.0], {}, {}
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        precision.append((taken & truth).sum() / taken.sum())
        recall.append((taken & truth).sum() / truth.sum())
        tnr = (~taken & ~truth).sum() / (~truth).sum()
        both = precision[-1] + recall[-1], recall[-1] + tnr
        f1[threshold] = 2 * precision[-1] * recall[-1] / both[0] if both[0] else 0.0
        harmonic[threshold] = 2 * recall[-1] * tnr / both[1] if both[1] else 0.0
    assert found.average_precision == pytest.approx(float(np.diff(recall) @ precision))
    assert found.best_f1 == pytest.approx(max(f1.values())) == pytest.approx(f1[found.best_f1_threshold])
    best = found.best_tpr_tnr_harmonic_mean
    assert (
        best == pytest.approx(max(harmonic.values())) == pytest.approx(harmonic[found.best_tpr_tnr_threshold])
    )
    assert (found.n, found.n_true) == (len(truth), truth.sum())


def test_the_harmonic_mean_of_rates_is_no_f1():
    """One true item among a hundred, ranked fifth: nearly perfect rates, poor precision."""
    found = measure_ranking(-np.arange(100.0), np.arange(100) == 4)
    assert found.best_f1 == pytest.approx(1 / 3)
    assert found.best_tpr_tnr_harmonic_mean > 0.97


def test_evaluation_compares_with_the_variety_of_codes():
    codes = torch.zeros(16, 2, 2, dtype=torch.int32)
    codes[:, 0, 0] = torch.arange(8).repeat(2) % 6
    codes[:8, 1, 1] = 1
    codes[8:, 1, 0] = torch.tensor([0, 0, 0, 1, 0, 2, 0, 3])
    made = make(codes)
    found = made.evaluate(["L1H1"], [("a0.h0", (1, 1))])
    assert found.on == "held_out"
    assert found.heads.auroc == 1.0
    assert found.heads_by_variety.auroc == pytest.approx(1 / 3)
    assert found.edges.n == 4
    assert found.edges.auroc == 1.0
    same = made.evaluate([(1, 1)], ["a0.h0->a1.h1<q>", "a0.h0->a1.h1<v>"])
    assert same == found
    assert made.evaluate(["a1.h1"]).edges is None
    assert made.evaluate(["a1.h1"], on="train").on == "train"


def test_what_is_no_head_is_refused():
    made = make()
    with pytest.raises(CircuitError, match="'m0' is no head"):
        made.evaluate(["m0"])
    with pytest.raises(CircuitError, match=r"no head \(3, 0\): the model has 3 layers of 2 heads"):
        made.evaluate([(3, 0)])
    with pytest.raises(CircuitError, match="'input' is no head"):
        made.evaluate(["a0.h0"], ["input->a1.h0<q>"])
    with pytest.raises(CircuitError, match="must be in an earlier layer"):
        made.evaluate(["a0.h0"], ["a1.h0->a1.h1"])
    with pytest.raises(CircuitError, match="'' is no head"):
        made.evaluate(["a0.h0"], ["a1.h0"])
    with pytest.raises(CircuitError, match="got 6 true and 0 others"):
        made.evaluate(mark_heads([], 3, 2).size * ["a0.h0"] + [(i, j) for i in range(3) for j in range(2)])
    with pytest.raises(CircuitError, match="did you mean 'train'"):
        made.head_scores("training")


def names_between_heads(graph: Graph) -> list[str]:
    return [name for name in graph.edge_names(range(graph.n_edges)) if name.startswith("a") and "->a" in name]


@pytest.mark.parametrize("positions", [(), ("S", "END", "other")])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_circuits_hold_the_best_pairs_through_q_k_and_v(n, positions):
    graph = Graph(3, 2, 2, 10, positions=positions)
    made = make(seed=4)
    circuit = made.to_circuit(graph, n)
    frame = made.edges_frame()
    best = zip(frame.source[:n], frame.target[:n], strict=True)
    places = [f"@{label}" for label in positions] or [""]
    expected = {f"{a}->{b}<{part}>{at}" for a, b in best for part in "qkv" for at in places}
    assert set(circuit.edges) == expected
    assert circuit.values is None
    assert circuit.how.startswith(f"{n} pairs of heads")
    tied = int((frame.score == frame.score[n - 1]).sum() - (frame.score[:n] == frame.score[n - 1]).sum())
    assert (f"; {tied} more of the last one's score left out" in circuit.how) == (tied > 0)
    whole = made.to_circuit(graph, n, others=True)
    left_out = set(names_between_heads(graph)) - expected
    assert set(whole.complement().edges) == left_out
    assert set(whole.prune().edges) >= set(whole.edges) - set(names_between_heads(graph))


def test_grouped_keys_and_values_are_taken_for_any_of_their_heads():
    graph = Graph(2, 4, 2, 0)
    codes = torch.zeros(12, 2, 4, dtype=torch.int32)
    codes[:6, 0, 1] = 1
    codes[:6, 1, 3] = torch.arange(6) % 5
    circuit = make(codes).to_circuit(graph, 1)
    assert set(circuit.edges) == {"a0.h1->a1.h3<q>", "a0.h1->a1.kv1<k>", "a0.h1->a1.kv1<v>"}


def test_shares_of_pairs_and_refused_numbers():
    graph, made = Graph(3, 2, 2, 0), make()
    assert made.to_circuit(graph, 0.5).n_edges == 3 * 6
    assert made.to_circuit(graph, 1e-6).n_edges == 3
    assert made.to_circuit(graph, 1.0).n_edges == made.to_circuit(graph, 12).n_edges == 36
    for edges in (0, 13, 0.0, -1, 1.5):
        with pytest.raises(CircuitError, match="there are 12 pairs"):
            made.to_circuit(graph, edges)
    with pytest.raises(CircuitError, match="a number of pairs of heads or a share"):
        made.to_circuit(graph, True)
    with pytest.raises(CircuitError, match="the graph has 2 layers of 2 heads, the codes are of 3 of 2"):
        made.to_circuit(Graph(2, 2, 2, 0), 1)
    with pytest.raises(CircuitError, match="there are 0 pairs"):
        make(n_layers=1).to_circuit(Graph(1, 2, 2, 0), 1)


def test_file_and_frames(tmp_path):
    made = make()
    read = DiscreteCircuit.load(made.save(tmp_path / "d"))
    assert torch.equal(read.codes, made.codes)
    assert read.fit == made.fit
    assert read.provenance == made.provenance
    frame = read.to_frame()
    assert frame.equals(made.to_frame())
    assert list(frame.score) == sorted(made.head_scores().flatten().tolist(), reverse=True)
    row = frame[frame["head"] == "a1.h1"].iloc[0]
    assert row.score == made.head_scores()[1, 1]
    assert row.train_score == made.head_scores("train")[1, 1]
    assert row.p_value == pytest.approx(float(made.p_values[1, 1]))
    assert row.variety == made.head_variety()[1, 1]
    ties = frame.groupby("score").p_value
    assert all(group.is_monotonic_increasing for _, group in ties)
    edges = read.edges_frame()
    assert len(edges) == 12
    row = edges[(edges.source == "a0.h1") & (edges.target == "a2.h0")].iloc[0]
    assert (row.score, row.train_score) == (made.edge_scores()[1, 4], made.edge_scores("train")[1, 4])
    assert "3 layers x 2 heads, 5 latents" in repr(made)


def test_fields_that_do_not_agree_are_refused():
    made = make()
    with pytest.raises(CircuitError, match="positive prompts come first"):
        replace(made, positive=~made.positive)
    with pytest.raises(CircuitError, match="train prompts must be as many positive as negative ones"):
        replace(made, held_out=torch.ones(24).bool())
    with pytest.raises(CircuitError, match="held_out prompts must be as many positive as negative ones"):
        replace(made, held_out=torch.arange(24) < 5)
    with pytest.raises(CircuitError, match=r"codes lie in 0\.\.4 .*got 0\.\.5"):
        replace(made, n_latents=4)
    with pytest.raises(RecordError, match=r"p_values must be \[layer=3, head=2\]"):
        replace(made, p_values=torch.zeros(2, 3))
