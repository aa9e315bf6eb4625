"""The attribution and agreement benchmarks end to end on tiny sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp.bench import attribution
from interp.bench.attribution import NODES, AttributionPlan, run_attribution
from interp.bench.methods import MethodsPlan, run_methods
from interp.errors import BenchError


@pytest.fixture
def plan(tiny):
    return AttributionPlan((tiny,), n_prompts=2, n_tokens=8, first_difference=5, repeats=2)


@pytest.mark.hooked_transformer
def test_ours_is_the_recipe_and_needs_less(plan, tiny):
    kept = []
    report = run_attribution(plan, keep=kept.extend)
    (row,) = report.rows
    assert kept == [row]
    per_position = 3 + 4 * tiny.n_heads + 0
    by_layer = 8 * per_position + 4 * tiny.d_model
    assert row.n_nodes == tiny.n_layers * by_layer + 8
    assert row.max_error < 1e-5
    assert row.peer == "HookedTransformer"
    assert 0 < row.ours_p20 <= row.ours_p50 <= row.ours_p80
    assert row.passes_mib < row.ours_mib < row.peer_mib
    assert "\n" not in report.last_line and f"{row.n_nodes} nodes" in report.last_line


def test_other_scores_than_the_peers_are_refused(plan, monkeypatch):
    right = attribution.run_recipe
    monkeypatch.setattr(
        attribution, "run_recipe", lambda peer: {k: v + 0.01 * v.abs().max() for k, v in right(peer).items()}
    )
    with pytest.raises(BenchError, match="differ from the peer's"):
        run_attribution(plan)


def test_nodes_are_scored_once_each():
    assert len(set(NODES)) == len(NODES)


def test_methods_on_random_models(tiny):
    plan = MethodsPlan((replace(tiny, d_model=64, n_heads=1),), (), ("attribution", "relevance"), draws=2)
    report = run_methods(plan)
    assert {row.seed for row in report.rows} == {0, 1}
    assert {row.site for row in report.rows} == {"resid_pre", "attn_out", "mlp_out", "z"}
    assert all(-1 <= row.pearson_low <= row.pearson <= row.pearson_high <= 1 for row in report.rows)
    assert "relevance ahead in" in report.last_line
    assert torch.is_grad_enabled()


def test_plans_that_mean_nothing(plan):
    with pytest.raises(BenchError, match="at least 1"):
        replace(plan, repeats=0)
    with pytest.raises(BenchError, match="at least 1"):
        MethodsPlan(draws=0)
