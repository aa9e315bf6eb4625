"""Minimality: what each edge or node of a circuit adds to it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.circuits.proof.completeness import removable
from interp.circuits.proof.scoring import edges_of, score_circuits
from interp.circuits.runs import CircuitRuns
from interp.errors import CircuitError, unknown_name
from interp.results import Circuit, Minimality
from interp.results.circuit import edges_at

Items = Literal["edges", "nodes"]


def measure_minimality(
    runs: CircuitRuns,
    circuit: Circuit,
    of: Items = "nodes",
    *,
    n_random: int | None = None,
    seed: int = 0,
) -> Minimality:
    """Take every edge or node out of a circuit, by itself and beside other nodes.

    The score of ``v`` is the largest ``|m(C without K and v) - m(C without K)|`` over the sets ``K`` tried (Wang
    et al. 2023, arXiv 2211.00593, section 4), with ``m`` the metric averaged over prompts. ``K`` matters where
    nodes stand in for one another: each alone changes nothing, for the other takes over. Tried are: none,
    and ``n_random`` random sets of half the nodes (8 for nodes, none for edges), the same for every item, less
    the item itself. A large score says that an item is needed somewhere; a small one only that it was not
    needed beside the sets that were tried.

    Raises :class:`CircuitError` for a circuit without edges, or without nodes where they are asked for.
    """
    if of not in get_args(Items):
        raise CircuitError(unknown_name("part of a circuit", str(of), get_args(Items)))
    included = edges_of(runs, circuit)
    if not included.any():
        raise CircuitError("the circuit has no edges, so nothing can be taken out of it.")
    names = circuit.edges if of == "edges" else removable(circuit)
    gone = _gone(circuit, names, of)
    n_sets = (8 if of == "nodes" else 0) if n_random is None else n_random
    nodes = removable(circuit) if n_sets else ()
    rng = np.random.default_rng(seed)
    beside = [
        tuple(nodes[i] for i in sorted(rng.permutation(len(nodes))[: (len(nodes) + 1) // 2]))
        for _ in range(n_sets)
    ]
    alone, found = _changes(runs, included, gone, names, [(), *beside])
    best = found.abs().argmax(0)
    sets = [
        tuple(node for node in ((), *beside)[k] if node != name) for k, name in zip(best, names, strict=True)
    ]
    return Minimality(
        of=of,
        names=names,
        alone=alone.float(),
        most=found.abs().amax(0).float(),
        beside=tuple(sets),
        n_sets=n_sets + 1,
        full=runs.full.cpu().float(),
        empty=runs.empty.cpu().float(),
        provenance=runs.provenance("minimality", (circuit.how,)),
    )


def _gone(circuit: Circuit, names: tuple[str, ...], of: Items) -> list[np.ndarray]:
    """[edge] for each item: the edges that go with it."""
    if of == "nodes":
        return [edges_at(circuit.graph, [name]) for name in names]
    numbers = np.arange(circuit.graph.n_edges)
    return [numbers == edge for edge in circuit.edge_numbers]


def _changes(
    runs: CircuitRuns,
    included: np.ndarray,
    gone: list[np.ndarray],
    names: tuple[str, ...],
    beside: list[tuple[str, ...]],
) -> tuple[Float[Tensor, "item prompt"], Float[Tensor, "set item"]]:
    """What taking out each item does: prompt by prompt beside no set, and on average beside each."""
    circuits: list[np.ndarray] = []
    for nodes in beside:
        without = included & ~edges_at(runs.graph, nodes)
        for name, edges in zip(names, gone, strict=True):
            rest = without
            if name in nodes:
                rest = included & ~edges_at(runs.graph, [node for node in nodes if node != name])
            circuits += [rest, rest & ~edges]
    scored = score_circuits(runs, circuits).view(len(beside), len(names), 2, -1)
    changes = scored[:, :, 1] - scored[:, :, 0]
    return changes[0], changes.mean(-1)
