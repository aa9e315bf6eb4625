"""Circuits and scores of edges with random numbers, of every kind and in the sizes that break layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from interp.circuits.choose import choose_circuit
from interp.results import Circuit, EdgeScores, Graph, MlpUnits, Provenance

TOKENS = ("<s>", " When", " John", " &", " <b>store</b>", " $5", "\n", " John", "", " %{x}")
PLAIN = Graph(3, 4, 4, 8)
COLUMNS = Graph(2, 4, 4, 8, positions=tuple(map(str, range(len(TOKENS)))), position_tokens=TOKENS)
LABELLED = Graph(2, 4, 4, 8, positions=("S<1>", "S$2", "END", "other"))
GROUPED = Graph(3, 6, 2, 8, parallel_blocks=True)
UNITS = Graph(3, 2, 2, 2000, units=(MlpUnits(0, "neuron", (3, 1999)), MlpUnits(2, "latent", (5, 17, 90000))))
GPT2 = Graph(12, 12, 12, 3072)


def make_edge_scores(graph: Graph = PLAIN, seed: int = 0, **changes: Any) -> EdgeScores:
    """A few edges that carry much and many that carry little."""
    generator = torch.Generator().manual_seed(seed)
    effects = torch.randn(graph.n_edges, generator=generator) ** 3
    made = Provenance(
        "mix<4>l & co", task="ioi", n_prompts=32, metric="logit difference", method="eap", direction="noise"
    )
    return EdgeScores(graph, **dict(effects=effects, clean=3.3, corrupted=-0.4, provenance=made) | changes)


def make_circuit(
    graph: Graph = PLAIN, edges: int | None = None, seed: int = 0, prune: bool = True
) -> Circuit:
    """The largest edges, by default a fifth of them."""
    return choose_circuit(make_edge_scores(graph, seed), edges or max(3, graph.n_edges // 5), prune=prune)


def circuit_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    plain = make_circuit()
    return {
        "circuit": plain,
        "circuit without values": replace(plain, values=None, how="by <hand> & $eye"),
        "circuit columns": make_circuit(COLUMNS),
        "circuit labels": make_circuit(LABELLED),
        "circuit grouped": make_circuit(GROUPED),
        "circuit units": make_circuit(UNITS, 80),
        "circuit large": make_circuit(GPT2, 6000),
        "circuit of one edge": make_circuit().without_edges(plain.edges[1:]),
        "edge scores": make_edge_scores(),
        "edge scores columns": make_edge_scores(COLUMNS),
        "edge scores units": make_edge_scores(UNITS),
        "edge scores large": make_edge_scores(GPT2),
        "edge scores equal": make_edge_scores(clean=1.0, corrupted=1.0),
        "edge scores of one head": make_edge_scores(Graph(1, 1, 1, 0)),
    }
