"""Completeness: nodes knocked out of a circuit and of the model do the same to both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from interp.circuits.proof.scoring import edges_of, score_circuits
from interp.circuits.runs import CircuitRuns
from interp.errors import CircuitError
from interp.results import Circuit, Completeness, KnockOut
from interp.results.circuit import edges_at
from interp.results.graph import INPUT, LOGITS


def measure_completeness(
    runs: CircuitRuns,
    circuit: Circuit,
    *,
    n_random: int = 40,
    greedy_steps: int = 3,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Completeness:
    """Knock the same nodes ``K`` out of a circuit and out of the model, and compare what is left of both.

    The incompleteness of ``K`` is ``|m(C without K) - m(M without K)|`` (Wang et al. 2023, arXiv 2211.00593,
    section 4), with ``m`` the metric averaged over prompts; a node is knocked out with all its edges. A
    circuit is complete if it is small for *every* ``K``; tried are here: none; every node alone;
    ``n_random`` random sets, each of a random size and of nodes chosen evenly; ``groups`` that are named
    (``{"name movers": ["a9.h6", "a9.h9"]}``); and the sets of a greedy search, which adds, one node at a
    time, the one that makes the incompleteness largest, for ``greedy_steps``. The search is over
    all nodes where the paper draws some of them at random, and it finds a bad set, not the worst. Of the
    circuit's nodes ``input`` and ``logits`` are never knocked out.

    Raises :class:`CircuitError` for a circuit without other nodes and for groups of nodes it has not.
    """
    included = edges_of(runs, circuit)
    nodes = removable(circuit)
    rng = np.random.default_rng(seed)
    sets = [KnockOut("nothing", ())]
    sets += [KnockOut("single", (node,)) for node in nodes]
    sets += [KnockOut("random", _some(nodes, rng)) for _ in range(n_random)]
    for name, members in (groups or {}).items():
        strange = [node for node in members if node not in nodes]
        if strange or not members:
            raise CircuitError(
                f"group {name!r} must hold nodes of the circuit ({', '.join(nodes[:6])} …); got {list(members)}."
            )
        sets.append(KnockOut("group", tuple(members), name))
    scored = _score_both(runs, included, [one.nodes for one in sets])
    chosen: tuple[str, ...] = ()
    for _ in tqdm(range(min(greedy_steps, len(nodes))), desc="greedy knock-out", disable=not progress):
        tried = [(*chosen, node) for node in nodes if node not in chosen]
        found = _score_both(runs, included, tried)
        means = found.mean(-1)
        best = int((means[0] - means[1]).abs().argmax())
        chosen = tried[best]
        sets.append(KnockOut("greedy", chosen))
        scored = torch.cat([scored, found[:, best : best + 1]], dim=1)
    return Completeness(
        sets=tuple(sets),
        circuit=scored[0].float(),
        model=scored[1].float(),
        full=runs.full.cpu().float(),
        empty=runs.empty.cpu().float(),
        provenance=runs.provenance("completeness", (circuit.how,)),
    )


def removable(circuit: Circuit) -> tuple[str, ...]:
    """Nodes of a circuit that can be knocked out: all but the input and the logits.

    Raises :class:`CircuitError` where there is none.
    """
    nodes = tuple(node for node in circuit.nodes if node not in (INPUT, LOGITS))
    if not nodes:
        raise CircuitError(
            f"the circuit ({circuit.n_edges} edges) has no node to knock out beside {INPUT} and {LOGITS}; choose "
            "more edges."
        )
    return nodes


def _some(nodes: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """A random set of a random size, in the order of the computation."""
    picked = rng.permutation(len(nodes))[: int(rng.integers(1, len(nodes) + 1))]
    return tuple(nodes[i] for i in sorted(picked))


def _score_both(runs: CircuitRuns, included: np.ndarray, sets: Iterable[tuple[str, ...]]) -> torch.Tensor:
    """[circuit or model, set, prompt]"""
    gone = [edges_at(runs.graph, nodes) for nodes in sets]
    scored = score_circuits(runs, [included & ~one for one in gone] + [~one for one in gone])
    return scored.view(2, len(gone), -1)
