"""Every edge through the engine against path patching, one forward an edge, in every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import HOOKED, NAMES, specimen
from naive_edges import naive_edge_effects_per_prompt
from random_tasks import random_task

import interp
from interp.circuits.exact import patch_edges
from interp.circuits.graph import build_graph
from interp.results import Graph

BUDGET = 1 << 28


def exact(model: Any, task: Any, graph: Graph, edges: np.ndarray, **options: Any) -> torch.Tensor:
    """Change of the metric from the base run, [edge, prompt]."""
    options = {"direction": "noise", "memory_budget": BUDGET, "progress": False} | options
    found = patch_edges(model, task, graph, edges, **options)
    base = found.corrupted if options["direction"] == "denoise" else found.clean
    return (found.scores - base).double()


def assert_same(
    model: Any, task: Any, graph: Graph, edges: np.ndarray, budget: int = BUDGET, **options: Any
) -> None:
    ours = exact(model, task, graph, edges, memory_budget=budget, **options)
    theirs = naive_edge_effects_per_prompt(model, task, graph, edges=edges, **options)
    scores = interp.patch(model, task, "resid_pre[0]@all", progress=False)["resid_pre"]
    size = max(abs(scores.clean - scores.corrupted), float(theirs.abs().max()), 0.05)
    assert float((ours - theirs).abs().max()) <= 1e-4 * size


def sample(graph: Graph, n: int, seed: int) -> np.ndarray:
    """Some edges, of every kind of reader."""
    draw = np.random.default_rng(seed)
    kinds = np.array([reader.kind for reader in graph.readers])[graph.edge_reader]
    picked = [draw.choice(np.flatnonzero(kinds == kind), n) for kind in np.unique(kinds)]
    return np.unique(np.concatenate(picked))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOOKED])
def test_every_kind_of_edge_in_every_family(name: str) -> None:
    model = specimen(name).model
    task = random_task([6, 4, 5], "left" if len(name) % 2 else "right", [1, 2, 0], seed=len(name))
    graph = build_graph(model)
    assert_same(model, task, graph, sample(graph, 4, 0), direction="noise")


@settings(max_examples=40)
@given(data=st.data())
def test_any_edges_under_any_options(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in NAMES if name not in HOOKED]))
    model = specimen(name).model
    lengths = data.draw(st.lists(st.integers(3, 6), min_size=2, max_size=3))
    ablation = data.draw(
        st.sampled_from(["source", "source", "zero", "mean", "mean-per-position", "resample"])
    )
    if ablation == "resample":
        lengths = [lengths[0]] * len(lengths)
    first = [data.draw(st.integers(0, length - 1)) for length in lengths]
    task = random_task(lengths, data.draw(st.sampled_from(["left", "right"])), first, seed=3)
    alike = len(set(lengths)) == 1
    positions = data.draw(st.sampled_from([None, ["S"], *(["pos"] if alike else [])]))
    units = {0: [1, 3], 1: [2]} if model.traits.d_mlp and data.draw(st.booleans()) else None
    graph = build_graph(model, task, positions=positions, neurons=units)
    edges = sample(graph, 2, data.draw(st.integers(0, 99)))
    assert_same(
        model,
        task,
        graph,
        edges,
        budget=data.draw(st.sampled_from([1, 1 << 20, 1 << 28])),
        direction=data.draw(st.sampled_from(["noise", "denoise"])),
        ablation=ablation,
        metric=data.draw(st.sampled_from([None, "kl", "loss"])),
    )


def test_a_metric_of_the_whole_batch() -> None:
    model, task = specimen("llama").model, random_task([5, 5, 4], "left", [1, 2, 1], seed=1)
    graph = build_graph(model)

    def spread(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1, :7]
        return last.mean(1) - last.mean()

    assert_same(model, task, graph, sample(graph, 3, 1), metric=spread)


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("name", HOOKED)
def test_models_without_block_functions_go_through_hooks(name: str) -> None:
    model, task = specimen(name).model, random_task([5, 5], "right", [1, 2], seed=2)
    graph = build_graph(model)
    edges = sample(graph, 1, 2)
    found = patch_edges(model, task, graph, edges, direction="noise", memory_budget=BUDGET, progress=False)
    assert found.backend == "hooked" and "HookedTransformer" in found.backend_reason
    assert_same(model, task, graph, edges)


def test_edges_of_equal_prompts_are_not_run() -> None:
    model, task = specimen("gpt2").model, random_task([5, 6], "right", [5, 6], seed=4)
    graph = build_graph(model)
    found = patch_edges(
        model, task, graph, np.arange(graph.n_edges), direction="noise", memory_budget=BUDGET, progress=False
    )
    assert torch.equal(found.scores, found.clean.expand_as(found.scores))
    assert f"0 of {2 * graph.n_edges} patched runs" in found.notes[-1]
