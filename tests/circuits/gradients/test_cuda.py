"""Scores of edges on a GPU are those on a CPU."""

from __future__ import annotations

import pytest
import torch
from model_zoo import make_bare
from random_tasks import random_task

import interp
from interp.circuits.gradients import EDGE_METHODS
from interp.circuits.graph import build_graph


@pytest.mark.cuda
@pytest.mark.parametrize("method", [name for name in EDGE_METHODS if name != "exact"])
@pytest.mark.parametrize("ablation", ["source", "mean", "resample"])
def test_scores_do_not_depend_on_the_device(method: str, ablation: str) -> None:
    task = random_task([6, 6, 6], "right", [1, 0, 2], seed=2)
    found = []
    for device in ("cpu", "cuda"):
        model = interp.load_model(make_bare("llama"), device=torch.device(device))
        graph = build_graph(model, task, positions=["S"], neurons={1: [3, 8]})
        scores = interp.score_edges(model, task, graph, method=method, ablation=ablation, progress=False)
        found.append(scores)
    for name in ("effects", "standard_errors", "magnitudes"):
        one, other = (getattr(scores, name) for scores in found)
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3, msg=name)
