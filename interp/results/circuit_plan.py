"""A circuit laid out for a picture: which nodes act at which positions, and what leads from one to another.

An edge ``u@p -> v<k>@p`` is read at position ``p``, while the head ``v`` writes wherever its query is. So a
head *acts* at the positions where it writes or is queried, and its keys and values are read at spots of their
own; a *move* leads from such a spot to every action of the head that attention can carry it to, the same
position or, where positions are in order, a later one. A circuit does not say how much goes where. Where
the only action is at that very position, no spot is needed and edges end at the head. Heads that share a
key/value head share its spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from interp.errors import CircuitError
from interp.results.circuit import Circuit
from interp.results.graph import INPUT, LOGITS, Graph

_INPUTS = {"q": "query", "k": "key", "v": "value"}


class Spot(NamedTuple):
    """A node at a position, or the place where a head's keys and values are read."""

    kind: Literal["node", "keys"]
    node: int
    """Number of the node; of keys and values, the first head that they serve."""
    position: int


class Link(NamedTuple):
    """An edge of the circuit as a line."""

    edge: int
    source: Spot
    target: Spot


@dataclass(frozen=True)
class CircuitPlan:
    """What a picture of a circuit shows."""

    graph: Graph
    spots: tuple[Spot, ...]
    """In the order of the computation, then of positions."""
    links: tuple[Link, ...]
    moves: tuple[tuple[Spot, Spot], ...]
    """From where keys and values are read to where their heads act."""

    def name(self, spot: Spot) -> str:
        """``a9.h6@END``, ``logits``; keys and values that are read apart ``a9.h6<kv>@S2``, ``a9.kv1<kv>``."""
        graph = self.graph
        name = graph.nodes[spot.node]
        if spot.kind == "keys":
            writer, group = graph.writers[spot.node], graph.n_heads // graph.n_kv_heads
            name = f"a{writer.layer}.kv{writer.index // group}" if group > 1 else name
            name += "<kv>"
        return f"{name}@{graph.positions[spot.position]}" if graph.positions else name


def plan_circuit(circuit: Circuit) -> CircuitPlan:
    """The spots of a circuit, and what leads from one to another."""
    graph, numbers = circuit.graph, circuit.edge_numbers
    acts = find_actions(circuit)
    links: list[Link] = []
    moves: dict[tuple[Spot, Spot], None] = {}
    for edge in numbers.tolist():
        reader, position = int(graph.edge_reader[edge]), int(graph.edge_position[edge])
        source = Spot("node", int(graph.edge_writer[edge]), position)
        ends = reached_spots(graph, acts, reader, position)
        target = ends[0]
        if len(ends) > 1 or target.position != position:
            target = Spot("keys", graph.fed[reader][0], position)
            moves |= dict.fromkeys((target, end) for end in ends)
        links.append(Link(edge, source, target))
    spots = {spot for link in links for spot in link[1:]} | {spot for move in moves for spot in move}
    order = sorted(spots, key=lambda spot: (spot.node, spot.position, spot.kind))
    return CircuitPlan(graph, tuple(order), tuple(links), tuple(moves))


def show_node(graph: Graph, node: int) -> str:
    """A node's name for people: ``L9H6``, ``M10``, ``M3 neuron 17``, ``M3 error``, ``input``.

    What is left of an MLP beside its neurons is its rest; beside a coder's latents it is the coder's error.
    """
    if node == len(graph.writers):
        return LOGITS
    writer = graph.writers[node]
    if writer.kind == "head":
        return f"L{writer.layer}H{writer.index}"
    if writer.kind == "input":
        return INPUT
    if writer.kind == "mlp":
        units = graph.units_of(writer.layer)
        left = "" if units is None else " error" if units.kind == "latent" else " rest"
        return f"M{writer.layer}{left}"
    return f"M{writer.layer} {writer.kind} {writer.index}"


def show_reader(graph: Graph, reader: int) -> str:
    """What reads, for people: ``L9H6 query``, ``L9KV1 key``, ``M10``, ``logits``."""
    what = graph.readers[reader]
    if what.kind not in ("q", "k", "v"):
        return show_node(graph, graph.fed[reader][0])
    head = "KV" if what.grouped and what.kind != "q" else "H"
    return f"L{what.layer}{head}{what.index} {_INPUTS[what.kind]}"


def show_edge(graph: Graph, edge: int) -> str:
    """An edge for people: ``L5H1 → L9H6 query``, in a graph with positions ``L5H1 → L9H6 query at END``."""
    name = f"{show_node(graph, graph.edge_writer[edge])} → {show_reader(graph, graph.edge_reader[edge])}"
    return f"{name} at {graph.positions[graph.edge_position[edge]]}" if graph.positions else name


def show_spot(graph: Graph, spot: Spot) -> str:
    """A spot's name for people, without its position: ``L9H6``, ``L9H6 keys and values``."""
    if spot.kind == "node":
        return show_node(graph, spot.node)
    group = graph.n_heads // graph.n_kv_heads
    writer = graph.writers[spot.node]
    head = show_node(graph, spot.node) if group == 1 else f"L{writer.layer}KV{writer.index // group}"
    return f"{head} keys and values"


def reached_spots(graph: Graph, acts: dict[int, list[int]], reader: int, position: int) -> list[Spot]:
    """Every action that what is read at a position can reach; at least one, in their order."""
    nodes = graph.fed[reader]
    if graph.readers[reader].kind not in ("k", "v"):
        return [Spot("node", nodes[0], position)]
    later = [
        Spot("node", node, place)
        for node in nodes
        for place in acts.get(node, [])
        if place >= position or not graph.positions_in_order
    ]
    # a head that does nothing after reading (in a circuit that was not pruned) stands where it reads
    return later or [Spot("node", nodes[0], position)]


def find_actions(circuit: Circuit) -> dict[int, list[int]]:
    """Positions where each node writes, or is read through anything but keys and values."""
    graph, numbers = circuit.graph, circuit.edge_numbers
    found: dict[int, set[int]] = {}
    places = graph.edge_position[numbers].tolist()
    for node, place in zip(graph.edge_writer[numbers].tolist(), places, strict=True):
        found.setdefault(node, set()).add(place)
    for reader, place in zip(graph.edge_reader[numbers].tolist(), places, strict=True):
        if graph.readers[reader].kind not in ("k", "v"):
            found.setdefault(graph.fed[reader][0], set()).add(place)
    return {node: sorted(found[node]) for node in found}


def keep_strongest(circuit: Circuit, most: int) -> Circuit:
    """The ``most`` edges with the largest values by size, equal ones in their order; without values the first.

    Raises :class:`CircuitError` for fewer than one.
    """
    if most < 1:
        raise CircuitError(f"a picture shows at least one edge; got max_edges={most}.")
    numbers = circuit.edge_numbers
    if len(numbers) <= most:
        return circuit
    if circuit.values is not None:
        size = circuit.values.double().abs().nan_to_num(-1.0).cpu().numpy()[numbers]
        numbers = numbers[np.argsort(-size, kind="stable")[:most]]
    included = np.zeros(circuit.graph.n_edges, dtype=bool)
    included[numbers[:most]] = True
    return circuit.with_included(included, circuit.how)
