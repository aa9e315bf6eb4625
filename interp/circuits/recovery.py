"""``interp.measure_recovery``: scores of edges against a circuit that is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.errors import CircuitError
from interp.results import Circuit, EdgeScores, Recovery


def measure_recovery(scores: EdgeScores, truth: Sequence[str] | Circuit) -> Recovery:
    """How well a ranking of edges by :attr:`EdgeScores.magnitudes` finds the true ones.

    ``truth`` names the edges that matter, as a planted model's ``circuit.edges`` does, or is a circuit of the
    same graph. The record holds area under the ROC curve, average precision, and precision, recall and F1 at
    every cut, of edges and of nodes. Every other edge counts as false, so this says something only where
    the truth is whole: of models written by hand or by a compiler.

    Example::

        circuit = load_circuit("data/models/micro")
        interp.measure_recovery(interp.score_edges(model, task, method="exact"), circuit.edges).auroc  # 1.0

    Raises :class:`CircuitError` for an edge that the scores' graph has not, for a circuit of another graph,
    for a truth of all edges or none, and for scores that are NaN.
    """
    graph = scores.graph
    if isinstance(truth, Circuit):
        if not graph.same_edges(truth.graph):
            raise CircuitError(
                f"the scores are of a graph of {graph.n_edges} edges, the true circuit of another with "
                f"{truth.graph.n_edges}; score the circuit's graph: score_edges(..., graph=circuit.graph)."
            )
        is_true = truth.included.cpu()
    else:
        if isinstance(truth, str):
            raise CircuitError(f"truth is a list of edges or a circuit; got the one string {truth!r}.")
        is_true = torch.zeros(graph.n_edges, dtype=torch.bool)
        is_true[torch.from_numpy(graph.find_edges(list(truth)))] = True
    return Recovery(graph, scores.magnitudes.detach().cpu(), is_true, scores.provenance)
