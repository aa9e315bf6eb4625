"""Overlap of circuits, edge by edge, node by node or head by head, against chance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from interp.circuits.choose import Choice, choose_circuit
from interp.circuits.reuse.chance import edge_strata, share_by_chance
from interp.errors import CircuitError, unknown_name
from interp.results import Circuit, CircuitOverlap, EdgeScores, Graph, Provenance
from interp.results.overlap import NULLS

Level = Literal["edges", "nodes", "heads"]
DEFAULT_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def compare_circuits(
    circuits: Mapping[str, Circuit | EdgeScores],
    fractions: Sequence[float] | None = None,
    *,
    thresholds: Sequence[float] | None = None,
    level: Level = "edges",
    how: Choice = "top",
    signed: bool = False,
    prune: bool = True,
    confidence: float = 0.95,
) -> CircuitOverlap:
    """What the circuits of several tasks share, and what they would share by chance.

    ``circuits`` maps names (of tasks) to circuits, or to scores, which are cut at every one of ``fractions``
    (of all edges; 1 to 50 % by default) or ``thresholds``; ``how``, ``signed`` and ``prune`` are those of
    :func:`interp.choose_circuit`. ``level`` compares sets of ``"edges"``, of ``"nodes"`` (heads, MLPs and their
    units; ``input`` and ``logits``, which every circuit has, are left out) or of ``"heads"``.

    The null is that of sets drawn at random, and exact: no set is sampled. ``uniform`` keeps the size of each
    set. ``stratified`` keeps its size among the edges into each kind of reader (queries, keys, values, MLP) of
    each layer and position, or among the heads of each layer: most edges end in late layers, and circuits
    choose layers before they choose edges, so that two circuits may share more than ``uniform`` says and still
    have nothing in common but their layers. Neither asks that a set be connected, as a pruned circuit is, which
    alone makes circuits more alike than these nulls say.

    Example::

        interp.compare_circuits({"ioi": ioi_scores, "greater_than": gt_scores}).plot()

    Raises :class:`CircuitError` for fewer than two circuits, for circuits of different graphs, for
    circuits and scores together, and for cuts of what is a circuit already.
    """
    if level not in get_args(Level):
        raise CircuitError(unknown_name("level", str(level), get_args(Level)))
    if not 0 < confidence < 1:
        raise CircuitError(f"confidence must lie between 0 and 1; got {confidence}.")
    _check_alike(circuits)
    cut_by, cuts = _cuts(circuits, fractions, thresholds)
    table = []
    for cut in cuts:
        options = {"edges": float(cut)} if cut_by == "fraction" else {"threshold": float(cut)}
        chosen = [
            given
            if isinstance(given, Circuit)
            else choose_circuit(given, how=how, signed=signed, prune=prune, **options)
            for given in circuits.values()
        ]
        table.append([_items_of(circuit, level) for circuit in chosen])
    sets = np.array(table)
    graph = next(iter(circuits.values())).graph
    return _measure(tuple(circuits), sets, graph, level, cut_by, cuts, confidence, _provenance(circuits))


def _check_alike(circuits: Mapping[str, Circuit | EdgeScores]) -> None:
    if len(circuits) < 2:
        raise CircuitError(f"give at least two circuits to compare; got {list(circuits)}.")
    kinds = {type(given) for given in circuits.values()}
    if kinds - {Circuit, EdgeScores} or len(kinds) > 1:
        got = ", ".join(f"{name}: {type(given).__name__}" for name, given in circuits.items())
        raise CircuitError(f"give circuits, or scores of edges, one kind for all; got {got}.")
    (first, one), *others = circuits.items()
    for name, other in others:
        if not one.graph.same_edges(other.graph):
            raise CircuitError(
                f"the circuits of {first!r} and {name!r} have different graphs ({one.graph.n_edges} and "
                f"{other.graph.n_edges} edges); compare circuits of one model, with the same positions and units."
            )


def _cuts(
    circuits: Mapping[str, Circuit | EdgeScores],
    fractions: Sequence[float] | None,
    thresholds: Sequence[float] | None,
) -> tuple[str, tuple[float, ...]]:
    if isinstance(next(iter(circuits.values())), Circuit):
        if fractions is not None or thresholds is not None:
            raise CircuitError(
                "circuits are compared as they are; give scores of edges to cut them in several ways."
            )
        return "circuit", (float("nan"),)
    if fractions is not None and thresholds is not None:
        raise CircuitError("give fractions or thresholds, not both.")
    if thresholds is not None:
        cut_by, cuts = "threshold", thresholds
    else:
        cut_by, cuts = "fraction", DEFAULT_FRACTIONS if fractions is None else fractions
    if not cuts or len(set(cuts)) < len(cuts):
        raise CircuitError(f"give at least one {cut_by}, and none twice; got {list(cuts)}.")
    return cut_by, tuple(float(cut) for cut in cuts)


def _items_of(circuit: Circuit, level: Level) -> np.ndarray:
    """[item] Which edges, nodes or heads the circuit has."""
    if level == "edges":
        return circuit.included.cpu().numpy()
    nodes = set(circuit.nodes)
    return np.array(
        [str(circuit.graph.writers[number]) in nodes for number in _numbers(circuit.graph, level)]
    )


def _numbers(graph: Graph, level: Level) -> list[int]:
    """Writers that are compared."""
    wanted = ("head",) if level == "heads" else ("head", "mlp", "neuron", "latent")
    return [number for number, writer in enumerate(graph.writers) if writer.kind in wanted]


def _strata(graph: Graph, level: Level) -> np.ndarray:
    """[item] Numbers of the strata."""
    if level == "edges":
        return edge_strata(graph)
    writers = [graph.writers[number] for number in _numbers(graph, level)]
    # a layer has one MLP: a stratum a layer would leave nothing to chance
    codes = [(writer.kind, -1 if writer.kind == "mlp" else writer.layer) for writer in writers]
    return np.array([sorted(set(codes)).index(code) for code in codes])


def _measure(
    names: tuple[str, ...],
    sets: np.ndarray,
    graph: Graph,
    level: Level,
    cut_by: str,
    cuts: tuple[float, ...],
    confidence: float,
    provenance: Provenance,
) -> CircuitOverlap:
    """``sets`` is [cut, circuit, item]."""
    strata = {"uniform": np.zeros(sets.shape[2], dtype=int), "stratified": _strata(graph, level)}
    pairs = list(itertools.combinations(range(len(names)), 2))
    shared = np.array([[(cut[i] & cut[j]).sum() for i, j in pairs] for cut in sets])
    tail = (1 - confidence) / 2
    found = np.zeros((4, len(NULLS), len(cuts), len(pairs)))
    for row, null in enumerate(NULLS):
        for cut, (pair, (i, j)) in itertools.product(range(len(cuts)), enumerate(pairs)):
            chance = share_by_chance(sets[cut, i], sets[cut, j], strata[null])
            ends = [chance.quantile(share) for share in (tail, 0.5, 1 - tail)]
            found[:, row, cut, pair] = [*ends, chance.at_least(int(shared[cut, pair]))]
    low, median, high = (torch.from_numpy(part.astype(np.int64)) for part in found[:3])
    return CircuitOverlap(
        names=names,
        level=level,
        n_items=sets.shape[2],
        cuts=cuts,
        cut_by=cut_by,
        sizes=torch.from_numpy(sets.sum(2)),
        shared=torch.from_numpy(shared),
        null_low=low,
        null_median=median,
        null_high=high,
        p_values=torch.from_numpy(found[3]),
        confidence=confidence,
        provenance=provenance,
    )


def _provenance(circuits: Mapping[str, Circuit | EdgeScores]) -> Provenance:
    """What holds for all of them, and the names of what differs."""
    made = [given.provenance for given in circuits.values()]

    def shared(name: str) -> Any:
        values = {getattr(one, name) for one in made}
        return values.pop() if len(values) == 1 else None

    def together(name: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(one, name) or "?") for one in made))

    kept = ("family", "revision", "metric", "direction", "ablation", "n_prompts", "seed")
    fields = {name: shared(name) for name in kept} | {
        name: together(name) for name in ("model", "task", "method")
    }
    seconds = [one.seconds for one in made if one.seconds is not None]
    total = sum(seconds) if len(seconds) == len(made) else None
    return replace(made[0], **fields, backend=None, backend_reason=None, seconds=total, notes=())
