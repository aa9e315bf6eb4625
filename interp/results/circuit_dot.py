"""Circuits as text for Graphviz."""

from __future__ import annotations

import math
from collections.abc import Iterator

from interp.results.circuit import Circuit
from interp.results.circuit_plan import CircuitPlan, Spot, keep_strongest, plan_circuit, show_spot
from interp.results.token_text import visible_token

_POSITIVE, _NEGATIVE, _PLAIN = "#2166ac", "#b2182b", "#787878"
_FILLS = {"input": "#eef1f5", "head": "#ffffff", "mlp": "#f3ecd8", "neuron": "#f3ecd8", "latent": "#e3efe0"}
_THINNEST, _THICKEST = 0.6, 5.0


def circuit_to_dot(circuit: Circuit, *, max_edges: int | None = None) -> str:
    """A circuit in the DOT language, input at the bottom and logits at the top, a rank for every layer.

    Edges are blue where they support the clean answer and red where they oppose it, as wide as their value
    is large, labelled ``q``, ``k`` or ``v`` where they end at a head. In a circuit with positions a node stands
    at each position where it acts; dotted lines lead from where keys and values are read to where the head
    acts (see :mod:`interp.results.circuit_plan`). ``max_edges`` keeps the strongest.

    Raises :class:`CircuitError` for ``max_edges`` below 1.
    """
    shown = circuit if max_edges is None else keep_strongest(circuit, max_edges)
    plan = plan_circuit(shown)
    title = f"{circuit.provenance.summary()}\n{circuit.how}"
    if shown.n_edges < circuit.n_edges:
        title += f"\nthe {shown.n_edges} strongest of {circuit.n_edges} edges"
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, label={_quote(title)}, labelloc=t, fontname=Helvetica, nodesep=0.2];",
        '  node [shape=box, style="rounded,filled", fontname=Helvetica, fontsize=11, height=0.3, width=0.5];',
        "  edge [fontname=Helvetica, fontsize=9, arrowsize=0.6];",
        *_ranks(plan),
        *_edges(shown, plan),
        *(
            f"  {_quote(plan.name(source))} -> {_quote(plan.name(target))} "
            '[style=dotted, color="#969696", constraint=false];'
            for source, target in plan.moves
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _ranks(plan: CircuitPlan) -> Iterator[str]:
    """Nodes of each layer's attention, and of its MLP, side by side."""
    ranks: dict[tuple[int, bool], list[Spot]] = {}
    for spot in plan.spots:
        ranks.setdefault(_rank(plan, spot), []).append(spot)
    for rank in sorted(ranks):
        yield "  { rank=same;"
        for spot in ranks[rank]:
            yield f"    {_quote(plan.name(spot))} [{_looks(plan, spot)}];"
        yield "  }"


def _rank(plan: CircuitPlan, spot: Spot) -> tuple[int, bool]:
    graph = plan.graph
    if spot.node == len(graph.writers):
        return graph.n_layers, False
    writer = graph.writers[spot.node]
    return writer.layer, writer.kind not in ("input", "head") and not graph.parallel_blocks


def _looks(plan: CircuitPlan, spot: Spot) -> str:
    graph = plan.graph
    name = show_spot(graph, spot)
    if graph.positions:
        name += f"\n{graph.positions[spot.position]}"
        if graph.position_tokens:
            name += f" {visible_token(graph.position_tokens[spot.position])}"
    if spot.kind == "keys":
        return f'label={_quote(name)}, shape=plaintext, style="", fontsize=8, fontcolor="#5f5f5f"'
    kind = "input" if spot.node == len(graph.writers) else graph.writers[spot.node].kind
    return f'label={_quote(name)}, fillcolor="{_FILLS[kind]}"'


def _edges(circuit: Circuit, plan: CircuitPlan) -> Iterator[str]:
    graph = circuit.graph
    values = None if circuit.values is None else circuit.values.double().tolist()
    sizes = [abs(values[link.edge]) for link in plan.links] if values else []
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    for link in plan.links:
        name, color, width = graph.edge_name(link.edge), _PLAIN, 1.0
        if values is not None:
            value = values[link.edge]
            name += f": {value:.3g}"
            if not math.isnan(value):
                share = min(abs(value) / largest, 1.0) if largest > 0 else 0.0
                color = _NEGATIVE if value < 0 else _POSITIVE
                width = _THINNEST + (_THICKEST - _THINNEST) * share
        kind = graph.readers[graph.edge_reader[link.edge]].kind
        label = f"label={kind}, " if kind in ("q", "k", "v") else ""
        yield (
            f"  {_quote(plan.name(link.source))} -> {_quote(plan.name(link.target))} "
            f'[{label}color="{color}", penwidth={width:.2f}, tooltip={_quote(name)}];'
        )


def _quote(text: str) -> str:
    r"""A quoted string of the language; a line break is written ``\n``."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
