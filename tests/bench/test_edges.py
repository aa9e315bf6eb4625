"""The edge benchmark on tiny sizes: its numbers, its gate, and its count of operations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from interp.bench import edges as bench
from interp.bench.cases import Case, build_gpt2, make_task, parse_shape, wrap_gpt2
from interp.bench.edges import EdgesPlan, run_edges
from interp.bench.flops import count_edges, count_exact_edges
from interp.circuits.exact import patch_edges
from interp.circuits.graph import build_graph
from interp.errors import BenchError

CPU = torch.device("cpu")


def test_the_shape_of_gpt2_small_has_its_edges():
    assert count_edges(Case(parse_shape("12x768"), 10)) == 32_491


@pytest.mark.parametrize("difference", [1, 10, 14])
def test_the_engine_is_above_the_floor_but_not_far(tiny, difference):
    shape = replace(tiny, n_layers=3, d_model=64)
    model, case = wrap_gpt2(build_gpt2(shape, 0, CPU), shape), Case(shape, difference, n_prompts=2)
    graph, task = build_graph(model), make_task(case, 0, CPU)
    assert graph.n_edges == count_edges(case)
    run = partial(
        patch_edges,
        model,
        task,
        graph,
        np.arange(graph.n_edges),
        direction="noise",
        memory_budget=1 << 28,
        progress=False,
    )
    run()
    with FlopCounterMode(display=False) as counter:
        run()
    assert 1 <= counter.get_total_flops() / count_exact_edges(case) <= 1.25


@pytest.mark.hooked_transformer
def test_ours_is_the_peers(tiny):
    plan = EdgesPlan((tiny,), n_tokens=8, first_difference=5, eap_prompts=2, repeats=2, sample=6)
    kept = []
    report = run_edges(plan, keep=kept.extend)
    (row,) = report.rows
    assert kept == [row]
    assert row.eap_error < 1e-4 and row.exact_error < 1e-5
    assert row.n_edges == row.exact_edges == count_edges(Case(tiny, 5))
    assert row.eap_mib < row.eap_peer_mib
    assert "\n" not in report.last_line and f"{row.n_edges} edges exactly" in report.last_line


@pytest.mark.hooked_transformer
def test_other_numbers_than_the_peers_are_refused(tiny, monkeypatch):
    plan = EdgesPlan((tiny,), n_tokens=8, first_difference=5, repeats=1, sample=4)
    right = bench.attribute_edges
    with monkeypatch.context() as patched:
        patched.setattr(bench, "attribute_edges", lambda *args: 1.01 * right(*args))
        with pytest.raises(BenchError, match="differ from the peer's"):
            run_edges(plan)
    exact = bench.patch_exactly

    def wrong(*args):
        found = exact(*args)
        return replace(found, scores=found.scores + 0.01 * found.scores.std())

    monkeypatch.setattr(bench, "patch_exactly", wrong)
    with pytest.raises(BenchError, match="differ from the peer's"):
        run_edges(plan)


def test_plans_that_mean_nothing(tiny):
    with pytest.raises(BenchError, match="at least 1"):
        EdgesPlan((tiny,), repeats=0)
    with pytest.raises(BenchError, match="at least 1"):
        EdgesPlan((tiny,), exact_edges=0)
