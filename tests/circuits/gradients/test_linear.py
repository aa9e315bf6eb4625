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


METHODS = (
    "eap",
    "eap-ig",
    "eap-ig:activations",
    "eap-ig:clean-corrupted",
    "relevance",
    "relevance:relp-ah",
    "atp*",
)


@pytest.mark.parametrize(("direction", "ablation"), [("noise", "source"), ("denoise", "mean")])
def test_every_estimate_of_a_linear_model_is_exact(direction: Any, ablation: Any) -> None:
    model = plain_model(True, act="identity", n_layers=2)
    graph = build_graph(model, TASK, positions=["S"], neurons={1: [2, 5]})
    exact = naive_edge_effects(model, TASK, graph, direction, ablation=ablation)
    size = float(exact.abs().max())
    assert int((exact.abs() > 1e-3 * size).sum()) > 0.3 * len(exact)
    for method in METHODS:
        found = score(model, method, direction=direction, ablation=ablation, graph=graph)
        # what is patched one by one is read in single precision
        torch.testing.assert_close(
            found, exact, atol=2e-6 * size, rtol=0, msg=lambda m, of=method: f"{of}: {m}"
        )


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


def test_the_largest_edges_are_where_they_are_predicted() -> None:
    """Predicted first, then patched one by one, in a trained model."""
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=4, seed=0)
    graph = build_graph(model)
    exact = interp.score_edges(model, task, graph, method="exact", progress=False)
    for method, least in (("eap", 0.9), ("eap-ig", 0.97), ("relevance", 0.97)):
        found = interp.score_edges(model, task, graph, method=method, progress=False)
        top = [edge.edge for edge in found.top(20)]
        both = torch.stack([found.values[top], exact.values[top]])
        assert float(torch.corrcoef(both)[0, 1]) > least, method
