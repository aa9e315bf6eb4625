"""Rankings of edges against the truth: areas by counting pairs, ties, cuts, nodes, and the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fake_circuits import COLUMNS, GROUPED, PLAIN
from fake_recovery import make_recovery
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import CircuitError
from interp.results import Graph, Provenance, Recovery
from interp.results.ranking import Ranking

SMALL = Graph(1, 1, 1, 4)  # input->a0.h0<q k v>, input->m0, a0.h0->m0, input, a0.h0, m0->logits


def ranking(scores, is_true):
    return Ranking(np.array(scores, dtype=float), np.array(is_true, dtype=bool))


rankings = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=12).filter(
    lambda items: len({true for _, true in items}) == 2
)


@given(rankings)
def test_auroc_is_the_share_of_pairs_in_order(items):
    true, false = ([score for score, is_true in items if is_true is which] for which in (True, False))
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(true, false)]
    found = ranking(*zip(*items, strict=True))
    assert found.auroc == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    x, y = found.roc
    assert np.trapezoid(y, x) == pytest.approx(found.auroc, abs=1e-12)
    reverse = ranking([-score for score, _ in items], [true for _, true in items])
    assert reverse.auroc == pytest.approx(1 - found.auroc, abs=1e-12)


@given(rankings)
def test_average_precision_from_its_definition(items):
    """Of every true item, the share that is true of all that score at least as high, averaged."""
    found = ranking(*zip(*items, strict=True))
    shares = []
    for score, is_true in items:
        if is_true:
            above = [other for value, other in items if value >= score]
            shares.append(sum(above) / len(above))
    assert found.average_precision == pytest.approx(np.mean(shares), abs=1e-12)
    recall, precision = found.precision_recall
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(found.average_precision, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6))
def test_cuts_are_those_expected_over_orders_of_equal_scores(items):
    found = ranking(*zip(*items, strict=True))
    orders = [
        [is_true for _, is_true in order]
        for order in itertools.permutations(items)
        if all(a[0] >= b[0] for a, b in itertools.pairwise(order))
    ]
    hits = np.mean([np.cumsum(order) for order in orders], axis=0)
    np.testing.assert_allclose(found.hits, hits, atol=1e-12)
    n_true = sum(is_true for _, is_true in items)
    np.testing.assert_allclose(found.precision, hits / np.arange(1, len(items) + 1), atol=1e-12)
    if found.is_defined:
        np.testing.assert_allclose(found.recall, hits / n_true, atol=1e-12)
        p, r = found.precision, found.recall
        f1 = np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=p + r > 0)
        np.testing.assert_allclose(found.f1, f1, atol=1e-12)
        cut = found.at(2)
        assert (cut.n, cut.precision, cut.recall, cut.f1) == (2, p[1], r[1], found.f1[1])


def test_a_ranking_by_hand():
    found = ranking([5, 4, 4, 1, 0], [True, True, False, False, True])
    # pairs in order: 5 above both; 4 even with 4, above 1; 0 above none
    assert found.auroc == (2 + 1.5 + 0) / 6
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found.hits.tolist() == [1, 1.5, 2, 2, 3]
    assert found.at(3).f1 == pytest.approx(2 / 3)
    assert [list(axis) for axis in found.roc] == [
        pytest.approx([0, 0, 0.5, 1, 1]),
        pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1]),
    ]
    assert ranking([3, 2, 1], [True, True, False]).auroc == 1.0
    assert ranking([1, 1, 1], [True, True, False]).auroc == 0.5


def test_nothing_to_tell_apart_is_undefined():
    for is_true in ([True, True], [False, False]):
        found = ranking([1, 2], is_true)
        assert np.isnan(found.auroc)
        assert np.isnan(found.average_precision)
        assert np.isnan(found.recall).all() == (not found.is_defined)


def small(true, magnitudes, **changes):
    is_true = torch.zeros(SMALL.n_edges, dtype=torch.bool)
    is_true[torch.from_numpy(SMALL.find_edges(true))] = True
    scores = torch.zeros(SMALL.n_edges)
    for name, value in magnitudes.items():
        scores[SMALL.find_edge(name)] = value
    fields = dict(graph=SMALL, magnitudes=scores, is_true=is_true, provenance=Provenance("m"))
    return Recovery(**fields | changes)


def test_nodes_rank_by_their_largest_edge():
    found = small(["input->m0", "m0->logits"], {"input->m0": 1.0, "input->a0.h0<q>": 3.0, "m0->logits": 2.0})
    assert found.node_names == ("a0.h0", "m0")
    assert found.nodes.scores.tolist() == [3.0, 2.0]
    assert found.nodes.is_true.tolist() == [False, True]
    assert found.nodes.auroc == 0.0
    assert found.mistaken == ["input->a0.h0<q>"]
    assert found.missed == ["m0->logits", "input->m0"]
    assert found.auroc == pytest.approx(1 - 2 / (2 * (SMALL.n_edges - 2)))


def test_a_key_value_head_stands_for_all_heads_it_serves():
    is_true = torch.zeros(GROUPED.n_edges, dtype=torch.bool)
    is_true[GROUPED.find_edge("a0.h0->a1.kv1<k>")] = True
    found = make_recovery(GROUPED, is_true=is_true, magnitudes=is_true.float())
    true = [name for name, yes in zip(found.node_names, found.nodes.is_true, strict=True) if yes]
    assert true == ["a0.h0", "a1.h3", "a1.h4", "a1.h5"]
    assert found.nodes.scores.sum() == 4
    assert found.nodes.auroc == 1.0
    assert found.missed == found.mistaken == []


def test_edges_at_positions_share_their_nodes():
    is_true = torch.zeros(COLUMNS.n_edges, dtype=torch.bool)
    is_true[COLUMNS.find_edge("a0.h1->m1@3")] = True
    found = make_recovery(COLUMNS, is_true=is_true)
    assert found.nodes.n_true == 2
    assert found.edges.n == COLUMNS.n_edges


def test_frame_summary_and_file(tmp_path):
    made = make_recovery()
    frame = made.to_frame()
    assert list(frame.edge) == PLAIN.edge_names(made.edges.order)
    assert frame.magnitude.is_monotonic_decreasing
    assert frame.is_true.sum() == 12
    assert frame.f1[11] == made.at_n_true.f1 == made.at_n_true.precision == made.at_n_true.recall
    summary = made.to_summary().set_index("of")
    assert summary.auroc["edges"] == made.auroc
    assert summary.average_precision["nodes"] == made.nodes.average_precision
    assert summary.n_true.tolist() == [12, made.nodes.n_true]
    read = Recovery.load(made.save(tmp_path / "r"))
    assert read.to_frame().equals(frame)
    assert read.graph == made.graph
    assert repr(read) == repr(made)
    assert "AUROC 0.883" in repr(made)


def test_summary_of_nodes_that_are_all_true():
    found = make_recovery(is_true=torch.arange(PLAIN.n_edges) != 0)
    assert found.to_summary().auroc.isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(magnitudes=torch.zeros(3)), r"magnitudes of edges must be \[edge=262\]; got shape \[3\]"),
        (dict(is_true=torch.ones(3, dtype=torch.bool)), r"is_true of edges must be"),
        (dict(is_true=torch.zeros(262, dtype=torch.bool)), "0 of 262 edges are true"),
        (dict(is_true=torch.ones(262, dtype=torch.bool)), "262 of 262 edges are true"),
        (dict(magnitudes=torch.full((262,), float("nan"))), r"262 of 262 edges have no magnitude \(NaN\)"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(CircuitError, match=message):
        make_recovery(**changes)
