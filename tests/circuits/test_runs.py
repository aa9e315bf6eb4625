"""Circuits run by block functions against node-by-node hooks, and both against what must be true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import HOOKED, NAMES, specimen
from random_tasks import random_task

import interp
from interp.circuits.exact import patch_edges
from interp.circuits.graph import build_graph
from interp.circuits.runs import prepare_circuits
from interp.circuits.runs.carried import CarriedRuns
from interp.errors import CircuitError, PatchError
from interp.results import Circuit, Graph, Provenance
from interp.results.connectivity import keep_connected

BLOCKS = [name for name in NAMES if name not in HOOKED]


def draw_circuits(graph: Graph, n: int, seed: int) -> torch.Tensor:
    """Random circuits, from nearly all edges to few."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.linspace(0.97, 0.4, n)[:, None]
    return torch.rand(n, graph.n_edges, generator=draw) < share


def size_of(runs: Any, *scores: torch.Tensor) -> float:
    """What the metric spans, for tolerances."""
    seen = torch.cat([part.flatten() for part in (runs.full, runs.empty, *scores)])
    return max(float(seen.max() - seen.min()), 0.05)


@settings(max_examples=15)
@given(data=st.data())
def test_equal_to_hooks_in_every_family(data: st.DataObject) -> None:
    model = specimen(data.draw(st.sampled_from(BLOCKS))).model
    ablation = data.draw(
        st.sampled_from(["source", "source", "zero", "mean", "mean-per-position", "resample"])
    )
    lengths = [5, 5, 5] if ablation == "resample" else data.draw(st.sampled_from([[4, 6], [5, 5, 5]]))
    first = [data.draw(st.integers(0, length - 1)) for length in lengths]
    task = random_task(lengths, data.draw(st.sampled_from(["left", "right"])), first, seed=5)
    positions = data.draw(st.sampled_from([None, ["S"], *(["pos"] if len(set(lengths)) == 1 else [])]))
    graph = build_graph(model, task, positions=positions)
    metric = data.draw(st.sampled_from([None, "kl", "loss"]))
    options = {"ablation": ablation, "metric": metric, "progress": False, "seed": 1}
    fast = prepare_circuits(model, task, graph, **options)
    slow = prepare_circuits(model, task, graph, backend="hooked", **options)
    circuits = draw_circuits(graph, 2, data.draw(st.integers(0, 99)))
    ours, theirs = fast.score(circuits), slow.score(circuits)
    assert float((ours - theirs).abs().max()) <= 1e-4 * size_of(fast, ours)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_whole_graph_is_the_clean_run_and_no_edge_the_corrupted_one(name: str) -> None:
    model, task = specimen(name).model, random_task([5, 6, 4], "left", [1, 0, 2], seed=6)
    runs = prepare_circuits(model, task, progress=False)
    found = interp.patch(model, task, "resid_pre[0]@all", progress=False)["resid_pre"]
    size = size_of(runs)
    assert abs(float(runs.full.mean()) - found.clean) <= 1e-4 * size
    assert abs(float(runs.empty.mean()) - found.corrupted) <= 1e-4 * size


@settings(max_examples=25)
@given(data=st.data())
def test_the_whole_graph_less_one_edge_is_that_edge_patched(data: st.DataObject) -> None:
    model = specimen(data.draw(st.sampled_from(BLOCKS))).model
    ablation = data.draw(st.sampled_from(["source", "zero", "mean"]))
    task = random_task([5, 5, 4], "right", [1, 2, 0], seed=7)
    units = {0: [0, 3], 1: [2]} if model.traits.d_mlp and data.draw(st.booleans()) else None
    graph = build_graph(model, task, positions=data.draw(st.sampled_from([None, ["S"]])), neurons=units)
    runs = prepare_circuits(model, task, graph, ablation=ablation, progress=False)
    edges = np.random.default_rng(data.draw(st.integers(0, 99))).choice(graph.n_edges, 8, replace=False)
    circuits = torch.ones(len(edges), graph.n_edges, dtype=torch.bool)
    circuits[torch.arange(len(edges)), torch.from_numpy(edges)] = False
    exact = patch_edges(
        model, task, graph, edges, direction="noise", ablation=ablation, memory_budget=1 << 28, progress=False
    )
    # an edge that alone fed its reader takes the reader's node along in a pruned circuit; none does here
    ours = runs.score(circuits)
    pruned = [keep_connected(graph, row).sum() == row.sum() for row in circuits.numpy()]
    kept = torch.tensor(pruned) | (ablation == "source")
    assert bool(kept.any())
    assert float((ours - exact.scores)[kept].abs().max()) <= 1e-4 * size_of(runs, ours)


@settings(max_examples=25)
@given(data=st.data())
def test_pruning_changes_no_metric(data: st.DataObject) -> None:
    model = specimen(data.draw(st.sampled_from(["gpt2", "llama", "gpt_neox", "gemma2"]))).model
    task = random_task([5, 5], "right", [1, 2], seed=8)
    graph = build_graph(model, task, positions=data.draw(st.sampled_from([None, "pos", ["S"]])))
    runs = prepare_circuits(model, task, graph, progress=False)
    block = runs._blocks[0]
    assert isinstance(block, CarriedRuns)
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    circuits = torch.rand(4, graph.n_edges, generator=draw) < 0.25
    pruned = torch.from_numpy(np.stack([keep_connected(graph, row) for row in circuits.numpy()]))
    assert bool((pruned.sum(1) < circuits.sum(1)).any())
    raw, kept = block.score(circuits), block.score(pruned)
    assert float((raw - kept).abs().max()) <= 1e-4 * size_of(runs, raw)


def test_neither_the_budget_nor_company_changes_numbers() -> None:
    model, task = specimen("qwen3").model, random_task([5, 6, 4, 5], "left", [1, 0, 2, 3], seed=9)
    graph = build_graph(model)
    circuits = draw_circuits(graph, 7, 0)
    usual = prepare_circuits(model, task, graph, progress=False)
    tight = prepare_circuits(model, task, graph, memory_budget=1, progress=False)
    assert len(tight._blocks) == 4
    alone = torch.cat([usual.score(circuits[i : i + 1]) for i in range(7)])
    for found in (tight.score(circuits), alone):
        torch.testing.assert_close(found, usual.score(circuits), atol=1e-5, rtol=1e-4)


def test_layers_held_at_the_clean_run() -> None:
    model, task = specimen("gpt2").model, random_task([5, 5], "right", [1, 2], seed=10)
    graph = build_graph(model)
    layer = np.array([reader.layer for reader in graph.readers])[graph.edge_reader]
    circuits = draw_circuits(graph, 3, 1) | torch.from_numpy(layer < 1)
    runs = prepare_circuits(model, task, graph, progress=False)
    torch.testing.assert_close(
        runs.score(circuits, first_layer=1), runs.score(circuits), atol=1e-6, rtol=1e-4
    )


def test_a_metric_of_the_whole_batch() -> None:
    def spread(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1, :7]
        return last.mean(1) - last.mean()

    model, task = specimen("llama").model, random_task([5, 5, 4], "left", [1, 2, 1], seed=11)
    options = {"metric": spread, "progress": False}
    fast, slow = (prepare_circuits(model, task, backend=b, **options) for b in ("wavefront", "hooked"))
    circuits = draw_circuits(fast.graph, 3, 2)
    torch.testing.assert_close(fast.score(circuits), slow.score(circuits), atol=1e-5, rtol=1e-4)


@pytest.mark.hooked_transformer
def test_a_hooked_transformer_runs_through_hooks() -> None:
    model, task = specimen("hooked_grouped").model, random_task([5, 5], "right", [1, 2], seed=12)
    runs = prepare_circuits(model, task, progress=False)
    assert runs.backend == "hooked"
    edges = np.array([0, runs.graph.n_edges // 2, runs.graph.n_edges - 1])
    circuits = torch.ones(3, runs.graph.n_edges, dtype=torch.bool)
    circuits[torch.arange(3), torch.from_numpy(edges)] = False
    exact = patch_edges(
        model, task, runs.graph, edges, direction="noise", memory_budget=1 << 28, progress=False
    )
    torch.testing.assert_close(runs.score(circuits), exact.scores, atol=1e-5, rtol=1e-4)


def test_nothing_is_left_behind() -> None:
    model, task = specimen("gemma2").model, random_task([5, 5], "right", [1, 2], seed=13)
    before = model(task.clean).detach()
    for backend in ("wavefront", "hooked"):
        runs = prepare_circuits(model, task, backend=backend, progress=False)
        runs.score(draw_circuits(runs.graph, 1, 3))
    assert model.active_edits == [] and model.edit_handles == {}
    assert torch.equal(model(task.clean).detach(), before)


def test_what_cannot_be_run_is_refused() -> None:
    model, task = specimen("gpt2").model, random_task([5, 5], "right", [1, 2], seed=14)
    other = build_graph(specimen("llama").model)
    with pytest.raises(CircuitError, match="build it with"):
        prepare_circuits(model, task, other)
    with pytest.raises(CircuitError, match="latents"):
        prepare_circuits(model, task, build_graph(model, latents={0: [3]}))
    with pytest.raises(CircuitError, match="single neurons"):
        prepare_circuits(model, task, build_graph(model, neurons={0: [3]}), backend="hooked")
    with pytest.raises(PatchError, match="unknown ablation"):
        prepare_circuits(model, task, ablation="nothing")  # type: ignore[arg-type]
    runs = prepare_circuits(model, task, progress=False)
    with pytest.raises(CircuitError, match=r"must be \[circuit, edge="):
        runs.score(torch.ones(3, 5, dtype=torch.bool))
    foreign = Circuit(other, torch.ones(other.n_edges, dtype=torch.bool), "all", Provenance("x"))
    with pytest.raises(CircuitError, match="another graph"):
        runs.score(foreign)
