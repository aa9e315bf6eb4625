"""Where a model is linear in what an edge carries, estimates are exact: beside edges patched one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_edges import naive_edge_effects
from random_tasks import random_task
from torch import Tensor

import interp
from interp.circuits.graph import build_graph
from interp.models.model import Model
from interp.models.plain import PlainConfig, PlainTransformer

TASK = random_task([6, 6, 5], "left", [1, 0, 2], seed=3)


def plain_model(constant_attention: bool, **options: Any) -> Model:
    """A model without norms; with ``constant_attention`` every token attends to all before it alike."""
    sizes = {
        "vocab_size": 53,
        "n_ctx": 16,
        "n_heads": 3,
        "d_model": 18,
        "d_head": 5,
        "d_mlp": 11,
        "norm": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = PlainTransformer(PlainConfig(**(sizes | {"initializer_range": 0.3} | options))).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05
            )
        model = interp.load_model(module.double())
        for layer in model.weights.layers if constant_attention else ():
            layer.W_K.zero_()
            if layer.b_K is not None:
                layer.b_K.zero_()
    return model


def score(model: Model, method: str, **options: Any) -> Tensor:
    found = interp.score_edges(model, TASK, method=method, progress=False, **options)
    return found.effects.double()


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize(
    "method",
    [
        "eap",
        "eap-ig",
        "eap-ig:activations",
        "eap-ig:clean-corrupted",
        "relevance",
        "relevance:relp-ah",
        "atp*",
    ],
)
def test_every_estimate_of_a_linear_model_is_exact(method: str, direction: Any) -> None:
    model = plain_model(True, act="identity", n_layers=3)
    graph = build_graph(model, TASK, positions=["S"], neurons={1: [2, 5]})
    for ablation in ("source", "mean"):
        options = {"direction": direction, "ablation": ablation, "graph": graph}
        exact = naive_edge_effects(model, TASK, graph, direction, ablation=ablation)
        found = score(model, method, **options)
        # single precision of what is patched
        torch.testing.assert_close(found, exact, atol=2e-6 * float(exact.abs().max()), rtol=0)
    assert int((exact.abs() > 1e-3 * exact.abs().max()).sum()) > 0.3 * len(exact)


def test_the_softmax_is_exact_where_all_after_it_is_linear() -> None:
    """Queries and keys of the last layer, without a norm before, between or after."""
    model = plain_model(False, d_mlp=0, n_layers=2)
    for positions in (None, ["S"]):
        graph = build_graph(model, TASK, positions=positions)
        exact = naive_edge_effects(model, TASK, graph)
        into = [graph.readers[i] for i in graph.edge_reader]
        last = torch.tensor([reader.layer == 1 and reader.kind in ("q", "k") for reader in into])
        star, first_order = (score(model, method, graph=graph)[last] for method in ("atp*", "eap"))
        size = float(exact[last].abs().max())
        torch.testing.assert_close(star, exact[last], atol=1e-5 * size, rtol=0)
        assert float((first_order - exact[last]).abs().max()) > 0.02 * size


def test_an_edge_that_is_cut_moves_the_metric_by_its_estimate() -> None:
    """Predicted first, then cut: the input carried only a little of the way to another run."""
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=4, seed=0)
    graph = build_graph(model)
    found = interp.score_edges(model, task, graph, method="eap-ig:activations", progress=False)
    # along its own path alone a writer's out-edges are complete; the largest of them carry most
    exact = interp.score_edges(model, task, graph, method="exact", progress=False)
    top = [edge.edge for edge in found.top(20)]
    both = torch.stack([found.values[top], exact.values[top]])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9
    assert bool((both[0].sign() == both[1].sign()).float().mean() > 0.9)
