"""ACDC against trying edges one at a time, and what it finds where the truth is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.circuits import acdc
from interp.circuits.acdc import search_acdc, take_out_edges
from interp.circuits.graph import build_graph
from interp.circuits.runs import CircuitRuns, prepare_circuits
from interp.errors import CircuitError
from interp.models.bundled.planted import PLANTED, planted_task
from interp.results.connectivity import keep_connected


def naive_acdc(runs: CircuitRuns, tau: float) -> torch.Tensor:
    """Algorithm 1, one whole run an edge."""
    graph = runs.graph
    limit = tau * float((runs.full.mean() - runs.empty.mean()).abs())
    included = torch.ones(graph.n_edges, dtype=torch.bool)
    before = float(runs.full.mean())
    order = sorted(
        range(graph.n_edges),
        key=lambda edge: (graph.edge_reader[edge], graph.edge_writer[edge], graph.edge_position[edge]),
        reverse=True,
    )
    for edge in order:
        tried = included.clone()
        tried[edge] = False
        score = float(runs.score(tried[None]).mean())
        if abs(score - before) < limit:
            included, before = tried, score
    return included


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "attention_only"])
@pytest.mark.parametrize("tau", [0.05, 0.2])
def test_equal_to_trying_edges_one_at_a_time(name: str, tau: float) -> None:
    model, task = specimen(name).model, random_task([5, 5], "right", [1, 2], seed=3)
    runs = prepare_circuits(model, task, progress=False)
    expected = naive_acdc(runs, tau)
    found = take_out_edges(runs, tau, progress=False)
    graph = runs.graph
    assert found.included.numpy().tolist() == keep_connected(graph, expected.numpy()).tolist()
    assert 0 < found.n_edges < graph.n_edges


@pytest.mark.parametrize("name", PLANTED)
def test_finds_planted_circuits(name: str) -> None:
    model, task = interp.load_model(name), planted_task(name, 24, seed=1)
    (found,) = search_acdc(model, task, taus=0.01, progress=False)
    truth = set(PLANTED[name].build()[2].edges)
    assert set(found.edges) <= truth
    # what backs up another is taken out where that one stands: the rest carries the whole metric
    runs = prepare_circuits(model, task, progress=False)
    share = (runs.score(found).mean() - runs.empty.mean()) / (runs.full.mean() - runs.empty.mean())
    assert float(share) > 0.95


def test_a_larger_tau_keeps_less_and_names_are_kept() -> None:
    model, task = specimen("llama").model, random_task([5, 5], "right", [1, 2], seed=4)
    found = search_acdc(model, task, taus=[0.01, 0.1, 0.5], progress=False)
    sizes = [circuit.n_edges for circuit in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert [circuit.how.split(";")[0] for circuit in found] == [
        "ACDC, tau 0.01",
        "ACDC, tau 0.1",
        "ACDC, tau 0.5",
    ]
    assert found[0].provenance.method == "acdc"


def test_a_stopped_search_goes_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, random_task([5, 5], "right", [1, 2], seed=5)
    usual = search_acdc(model, task, taus=[0.02, 0.1], progress=False)
    visit, calls = acdc._visit, []

    def stops(*args: Any) -> Any:
        calls.append(args[2])
        if len(calls) in (4, 9, 15):
            raise KeyboardInterrupt
        return visit(*args)

    monkeypatch.setattr(acdc, "_visit", stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search_acdc(model, task, taus=[0.02, 0.1], checkpoint=tmp_path / "search", progress=False)
    found = search_acdc(model, task, taus=[0.02, 0.1], checkpoint=tmp_path / "search", progress=False)
    for ours, theirs in zip(found, usual, strict=True):
        assert torch.equal(ours.included, theirs.included)
    assert len(calls) == 3 + 2 * len(build_graph(model).readers)
    with pytest.raises(CircuitError, match="another search"):
        search_acdc(model, task, taus=[0.3], checkpoint=tmp_path / "search", progress=False)


def test_what_means_nothing_is_refused() -> None:
    model, task = specimen("gpt2").model, random_task([5, 5], "right", [5, 5], seed=6)
    with pytest.raises(CircuitError, match="tau is a positive share"):
        search_acdc(model, task, taus=[])
    with pytest.raises(CircuitError, match="tau is a positive share"):
        search_acdc(model, task, taus=-0.1)
    with pytest.raises(CircuitError, match="same with all edges and with none"):
        search_acdc(model, task, taus=0.1, progress=False)
