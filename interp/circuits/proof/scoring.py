"""Running many circuits at once, each different one once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.runs import CircuitRuns
from interp.errors import CircuitError
from interp.results import Circuit, Graph
from interp.results.connectivity import keep_connected


def score_circuits(runs: CircuitRuns, circuits: Sequence[np.ndarray]) -> Float[Tensor, "circuit prompt"]:
    """The metric of every prompt with each circuit [edge] run.

    Circuits that are equal once pruned run once, those of all edges or none not at all. Returned in fp64.
    """
    graph = runs.graph
    kept = [keep_connected(graph, included) for included in circuits]
    known = {
        np.zeros(graph.n_edges, dtype=bool).tobytes(): 0,
        np.ones(graph.n_edges, dtype=bool).tobytes(): 1,
    }
    fresh: list[np.ndarray] = []
    places = []
    for included in kept:
        key = included.tobytes()
        if key not in known:
            known[key] = len(fresh) + 2
            fresh.append(included)
        places.append(known[key])
    found = torch.stack([runs.empty.cpu(), runs.full.cpu()]).double()
    if fresh:
        scored = runs.score(torch.from_numpy(np.stack(fresh)))
        found = torch.cat([found, scored.detach().double().cpu()])
    return found[torch.tensor(places, dtype=torch.long)]


def edges_of(runs: CircuitRuns, circuit: Circuit) -> np.ndarray:
    """[edge] Which edges belong to a circuit. Raises :class:`CircuitError` for one of another graph."""
    check_same_graph(runs.graph, circuit.graph)
    included: np.ndarray = circuit.included.cpu().numpy()
    return included


def check_same_graph(wanted: Graph, got: Graph) -> None:
    """Raise :class:`CircuitError` for a graph whose edges are not those that are run."""
    if not wanted.same_edges(got):
        raise CircuitError(
            f"the circuit or the scores have a graph of {got.n_edges} edges, and circuits are run on one of "
            f"{wanted.n_edges}; prepare the runs with graph=circuit.graph."
        )


def absolute_changes(
    first: Float[Tensor, "circuit prompt"], second: Float[Tensor, "*#circuit prompt"]
) -> Float[Tensor, " circuit"]:
    """How far apart two metrics are on a prompt, averaged over prompts; ``second`` may be of one circuit."""
    return (first - second).abs().mean(-1)
