"""Circuits as graph files that the frontend of circuit-tracer shows.

The format is that of circuit-tracer (github.com/safety-research/circuit-tracer, ``frontend/graph_models.py``) and
of Neuronpedia's schema of attribution graphs. It was made for features of transcoders: nodes stand at a layer
and a token, and one link leads from a node to another. What has no counterpart there is said in
:func:`tracer_graph`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import CircuitError, DataFileError
from interp.results.circuit import Circuit
from interp.results.circuit_plan import (
    CircuitPlan,
    Spot,
    find_actions,
    plan_circuit,
    reached_spots,
    show_node,
)
from interp.results.graph import Graph
from interp.results.storage import write_whole

INDEX = "graph-metadata.json"
"""Beside the graph files of a folder: what the frontend lists."""


def write_circuit_tracer(
    circuit: Circuit, path: str | Path, *, prompt: str | None = None, index: bool = False
) -> Path:
    """Write :func:`tracer_graph` as JSON. The file's name without ``.json`` is the graph's slug.

    ``index`` also lists the graph in ``graph-metadata.json`` beside it, which circuit-tracer's local server
    needs (``serve(data_dir)``). Raises :class:`CircuitError` as :func:`tracer_graph` does, and
    :class:`DataFileError` for a list that is damaged.
    """
    path = Path(path)
    graph = tracer_graph(circuit, slug=path.stem, prompt=prompt)
    if index:
        listed = [row for row in _read_index(path.with_name(INDEX)) if row.get("slug") != path.stem]
        _write(path.with_name(INDEX), {"graphs": [*listed, graph["metadata"]]})
    return _write(path, graph)


def tracer_graph(circuit: Circuit, *, slug: str = "circuit", prompt: str | None = None) -> dict[str, Any]:
    """A circuit as the JSON object that circuit-tracer's frontend reads.

    Columns are the graph's positions; without positions they are the heads by their number, then the MLPs.
    A link's weight is the sum of its edges' values (``q``, ``k`` and ``v`` between the same two nodes are one
    link, which lists them as ``edges``); all weights are 1 in a circuit without values. Keys and values
    that a head reads at one position and may carry to several lead to each of them, with an equal part of
    the value, for a circuit does not say how much goes where. ``influence`` is cumulative, as there: the share
    of all links' weight that leaves nodes at least as strong. The logits are one node, and no probability
    is known of it.

    Raises :class:`CircuitError` for values that are not finite.
    """
    plan = plan_circuit(circuit)
    links = _links(circuit)
    spots = [spot for spot in plan.spots if spot.kind == "node"]
    influence = _influence(links)
    tokens = _columns(circuit.graph)
    made = circuit.provenance
    metadata = {
        "slug": slug,
        "scan": made.model,
        "transcoder_list": [],
        "prompt_tokens": tokens,
        "prompt": "".join(tokens) if prompt is None else prompt,
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "description": circuit.how,
            "generator": {"name": "interp", "version": made.versions.get("interp", "unknown")},
            "provenance": made.to_dict(),
        },
    }
    nodes = [_node(circuit, plan, spot, influence.get(spot)) for spot in spots]
    return {
        "metadata": metadata,
        "qParams": {
            # the frontend draws the links of pinned nodes
            "pinnedIds": [node["node_id"] for node in nodes],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": nodes,
        "links": [
            {"source": _id(plan, a), "target": _id(plan, b), "weight": weight, "edges": names}
            for (a, b), (weight, names) in links.items()
        ],
    }


def _links(circuit: Circuit) -> dict[tuple[Spot, Spot], tuple[float, list[str]]]:
    graph, acts = circuit.graph, find_actions(circuit)
    values = None if circuit.values is None else circuit.values.double().cpu()
    if values is not None and not bool(values[circuit.included].isfinite().all()):
        raise CircuitError(
            "some values of this circuit are not finite, and the format has no such weights; leave the values out "
            "(dataclasses.replace(circuit, values=None)) or score the edges again."
        )
    found: dict[tuple[Spot, Spot], tuple[float, list[str]]] = {}
    for edge in circuit.edge_numbers.tolist():
        position = int(graph.edge_position[edge])
        ends = reached_spots(graph, acts, int(graph.edge_reader[edge]), position)
        value = 1.0 if values is None else float(values[edge])
        source = Spot("node", int(graph.edge_writer[edge]), position)
        for end in ends:
            weight, names = found.get((source, end), (0.0, []))
            found[source, end] = weight + value / len(ends), [*names, graph.edge_name(edge)]
    return found


def _influence(links: Mapping[tuple[Spot, Spot], tuple[float, list[str]]]) -> dict[Spot, float]:
    strength: dict[Spot, float] = {}
    for (source, _), (weight, _) in links.items():
        strength[source] = strength.get(source, 0.0) + abs(weight)
    total, so_far, found = sum(strength.values()) or 1.0, 0.0, {}
    for spot in sorted(strength, key=lambda spot: -strength[spot]):
        so_far += strength[spot]
        found[spot] = min(so_far / total, 1.0)
    return found


def _columns(graph: Graph) -> list[str]:
    """What stands under each column; at least two, for the frontend drops nodes of all columns as too common."""
    if graph.positions:
        found = list(graph.position_tokens or graph.positions)
    else:
        found = [f"head {head}" for head in range(graph.n_heads)] + ["MLP"]
    return found if len(found) > 1 else [*found, ""]


def _node(circuit: Circuit, plan: CircuitPlan, spot: Spot, influence: float | None) -> dict[str, Any]:
    graph = plan.graph
    layer, kind, feature, column = _place(graph, spot)
    label = show_node(graph, spot.node)
    if kind == "logit":
        # the frontend reads a probability between brackets, and fails on a label without
        metric = (circuit.provenance.metric or label).replace('"', "'")
        label = f'Output "{metric}" (p=unknown)'
    return {
        "node_id": _id(plan, spot),
        "feature": feature,
        "layer": layer,
        "ctx_idx": spot.position if graph.positions else column,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": kind == "logit",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": _id(plan, spot),
        "clerp": label,
        "influence": influence,
        "activation": None,
    }


def _place(graph: Graph, spot: Spot) -> tuple[str, str, int, int]:
    """Layer, type, feature number, and the column in a graph without positions."""
    last = graph.n_heads
    if spot.node == len(graph.writers):
        return str(graph.n_layers + 1), "logit", 0, last
    writer = graph.writers[spot.node]
    if writer.kind == "input":
        return "E", "embedding", spot.position, 0
    layer, units = writer.layer, graph.units_of(writer.layer)
    if writer.kind == "latent":
        diagonal = layer + writer.index
        # Cantor's pairing of layer and latent, by which the frontend looks features up
        return str(layer), "cross layer transcoder", diagonal * (diagonal + 1) // 2 + writer.index, last
    if writer.kind == "mlp" and units is not None and units.kind == "latent":
        return str(layer), "mlp reconstruction error", -1, last
    number, kind, column = {
        "head": (writer.index, "attention head", writer.index),
        "mlp": (graph.n_heads, "mlp", last),
        "neuron": (graph.n_heads + 1 + writer.index, "neuron", last),
    }[writer.kind]
    # beside latents numbers would be taken twice: below those of features, and of errors, all are free
    return str(layer), kind, number if units is None or units.kind != "latent" else -2 - number, column


def _id(plan: CircuitPlan, spot: Spot) -> str:
    """The node's name; a latent's and an error's as circuit-tracer writes them, which reads them back."""
    graph = plan.graph
    layer, kind, _, _ = _place(graph, spot)
    if kind in ("cross layer transcoder", "mlp reconstruction error"):
        index = -1 if kind.endswith("error") else graph.writers[spot.node].index
        return f"{layer}_{index}_{spot.position}"
    return plan.name(spot)


def _read_index(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["graphs"]
        return [dict(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataFileError(
            f"{str(path)!r} is no list of graphs ({type(error).__name__}: {error}); mend or remove it, or write "
            "with index=False."
        ) from error


def _write(path: Path, data: Mapping[str, Any]) -> Path:
    return write_whole(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8"))
