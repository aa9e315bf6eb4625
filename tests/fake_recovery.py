"""Recoveries of made-up circuits: perfect, poor, tied, and where nodes cannot be told apart."""

from __future__ import annotations

from typing import Any

import torch
from fake_circuits import COLUMNS, GPT2, GROUPED, PLAIN, make_edge_scores

from interp.results import Graph, Recovery


def make_recovery(
    graph: Graph = PLAIN, n_true: int = 12, gain: float = 3.0, seed: int = 0, **changes: Any
) -> Recovery:
    """Random edges are true; their magnitudes are ``gain`` larger than the others'."""
    scores = make_edge_scores(graph, seed)
    generator = torch.Generator().manual_seed(seed)
    is_true = torch.zeros(graph.n_edges, dtype=torch.bool)
    is_true[torch.randperm(graph.n_edges, generator=generator)[:n_true]] = True
    magnitudes = torch.rand(graph.n_edges, generator=generator) + gain * is_true * torch.rand(
        graph.n_edges, generator=generator
    )
    known = dict(magnitudes=magnitudes, is_true=is_true, provenance=scores.provenance)
    return Recovery(graph, **known | changes)


def recovery_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    is_true = torch.arange(PLAIN.n_edges) % 9 == 4
    all_nodes = torch.ones(PLAIN.n_edges, dtype=torch.bool)
    all_nodes[0] = False
    only_input = torch.zeros(PLAIN.n_edges, dtype=torch.bool)
    only_input[PLAIN.find_edge("input->logits")] = True
    return {
        "recovery": make_recovery(),
        "recovery perfect": make_recovery(is_true=is_true, magnitudes=is_true.float()),
        "recovery equal": make_recovery(magnitudes=torch.zeros(PLAIN.n_edges)),
        "recovery columns": make_recovery(COLUMNS, 40),
        "recovery grouped": make_recovery(GROUPED, gain=0.0),
        "recovery large": make_recovery(GPT2, 600),
        "recovery of all nodes": make_recovery(is_true=all_nodes),
        "recovery of no node": make_recovery(is_true=only_input),
    }
