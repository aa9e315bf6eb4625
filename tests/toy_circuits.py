"""Runs of circuits whose metric is a formula over edges, so that every number is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from interp.results import Circuit, EdgeScores, Graph, Provenance

ONE_LAYER = Graph(n_layers=1, n_heads=3, n_kv_heads=3, d_mlp=4)
TWO_LAYERS = Graph(n_layers=2, n_heads=2, n_kv_heads=2, d_mlp=4)

Metric = Callable[[np.ndarray], np.ndarray]
"""From a circuit [edge] to the metric of every prompt."""


class ToyRuns:
    """Stands in for ``interp.circuits.runs.CircuitRuns``; ``asked`` are the circuits that were run.

    It does not prune: what asks must.
    """

    model = task = None

    def __init__(self, graph: Graph, metric: Metric) -> None:
        self.graph = graph
        self.metric = metric
        self.asked: list[np.ndarray] = []

    def score(self, included: torch.Tensor) -> torch.Tensor:
        self.asked += list(included.numpy())
        rows = [self.metric(row) for row in included.numpy()]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def _run(self, included: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.metric(included), dtype=np.float32))

    @property
    def full(self) -> torch.Tensor:
        return self._run(np.ones(self.graph.n_edges, dtype=bool))

    @property
    def empty(self) -> torch.Tensor:
        return self._run(np.zeros(self.graph.n_edges, dtype=bool))

    def provenance(self, method: str, notes: tuple[str, ...] = ()) -> Provenance:
        made = Provenance("toy", task="toy", n_prompts=len(self.full), metric="logit_diff", method=method)
        return Provenance.from_dict(made.to_dict() | {"notes": notes, "direction": "noise"})


def weigh_edges(weights: np.ndarray, base: np.ndarray | float = 0.0) -> Metric:
    """``base`` and the sum of the weights [edge] or [edge, prompt] of a circuit's edges."""

    def metric(included: np.ndarray) -> np.ndarray:
        return base + included.astype(float) @ weights

    return metric


def any_way(graph: Graph, ways: Sequence[Sequence[str]], prompts: int = 4) -> Metric:
    """1 where one of several ways is whole, else 0: nodes on one way stand in for those on another."""
    numbers = [graph.find_edges(way) for way in ways]

    def metric(included: np.ndarray) -> np.ndarray:
        return np.full(prompts, float(any(included[way].all() for way in numbers)))

    return metric


def head_way(head: int) -> tuple[str, str]:
    """From the input through the values of one head of the first layer to the logits."""
    return f"input->a0.h{head}<v>", f"a0.h{head}->logits"


def make_circuit(graph: Graph, names: Sequence[str], method: str = "toy") -> Circuit:
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(names))] = True
    return Circuit(graph, included, "named", Provenance("toy", method=method, metric="logit_diff"))


def make_edge_scores(graph: Graph, values: np.ndarray, **changes: object) -> EdgeScores:
    made = Provenance("toy", method="exact", metric="logit_diff", direction="noise", ablation="source")
    made = Provenance.from_dict(made.to_dict() | changes)
    return EdgeScores(graph, -torch.as_tensor(values).float(), 1.0, 0.0, made)
