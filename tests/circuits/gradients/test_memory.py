"""Memory: the budget holds, and nothing grows with all writers times the residual stream."""

from __future__ import annotations

from typing import Any

import pytest
from model_zoo import specimen
from random_tasks import random_task
from tiny_models import make_hf_model

import interp
from interp.circuits.gradients import (
    EdgeIntegratedGradients,
    EdgeMethodLike,
    resolve_edge_method,
    score_edges_by_gradients,
)
from interp.circuits.graph import build_graph
from interp.models.memory_meter import MemoryMeter
from interp.models.model import Model
from interp.tasks.base import PromptPairs
from interp.tasks.metrics import resolve_metric


def peak(model: Model, task: PromptPairs, method: EdgeMethodLike = "eap", **options: Any) -> int:
    """Most bytes at once, the second time."""
    chosen = resolve_edge_method(method)
    assert chosen is not None

    def run() -> None:
        budget = {"memory_budget": 8 << 20} | options
        score_edges_by_gradients(
            model, task, build_graph(model), chosen, resolve_metric(None, task), progress=False, **budget
        )

    run()
    with MemoryMeter() as meter:
        run()
    return meter.peak


@pytest.mark.parametrize(
    "method",
    [
        "eap",
        EdgeIntegratedGradients(steps=2),
        EdgeIntegratedGradients("activations", steps=1),
        "relevance",
        "atp*",
    ],
    ids=str,
)
def test_the_budget_holds(method: EdgeMethodLike) -> None:
    model, task = specimen("llama").model, random_task([24] * 12, "right", [2] * 12, seed=1)
    budget = 4 << 20
    used = peak(model, task, method, memory_budget=budget)
    assert used < budget
    # and it is used: more than one prompt went into a block
    assert used > budget / 10


def test_parameters_that_could_be_trained_cost_nothing() -> None:
    """Nothing is kept for gradients of weights."""
    task, used = random_task([24] * 12, "right", [0] * 12, seed=1), []
    for trained in (False, True):
        model = interp.load_model(make_hf_model("llama", d_mlp=400))
        for parameter in model.module.parameters():
            parameter.requires_grad_(trained)
        used.append(peak(model, task))
    assert used[0] == used[1]


def test_it_does_not_grow_with_writers_times_the_stream() -> None:
    """Four times the heads of a quarter the size: the same activations, and four times the writers."""
    sizes = {"d_model": 144, "d_mlp": 52, "n_layers": 4}
    task = random_task([40] * 4, "right", [0] * 4, seed=1)
    used, cells = [], []
    for n_heads in (4, 16):
        model = interp.load_model(make_hf_model("gpt2", n_heads=n_heads, **sizes))
        used.append(peak(model, task, memory_budget=1 << 24))
        graph = build_graph(model)
        cells.append(4 * len(task) * graph.n_edges)
        whole = 4 * len(task) * 40 * len(graph.writers) * sizes["d_model"]
    # what grows is patterns and scores of edges; all writers' outputs would take much more
    patterns = 4 * len(task) * 40 * 40 * 12 * 8
    assert used[1] - used[0] < 2 * (cells[1] - cells[0]) + patterns < 0.6 * whole
