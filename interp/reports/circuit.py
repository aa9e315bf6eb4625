"""The report of a circuit: what it is, its pictures and tables, what speaks for it, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interp.errors import CircuitError
from interp.reports.page import Cell, Section, Table, write_report
from interp.reports.sections import provenance_section, summary_section
from interp.results import Circuit, EdgeScores, HeadScores
from interp.results.circuit_plan import show_edge, show_node
from interp.results.graph import Graph
from interp.results.phrases import is_estimate, name_method, name_patch
from interp.tasks import PromptPairs

_VALUES = (
    "An edge's value is the share of the gap between clean and corrupted metric that it carries when it alone is "
    "patched, 1 for all of it; positive supports the clean answer. Values of edges need not add up to what the circuit "
    "does: edges interact."
)
_NODES = "Out is the sum of the values of the edges of the circuit that leave a node."
_UNPROVED = (
    "A circuit chosen by scores of single edges is a guess until it is run as a whole: interp.measure_faithfulness "
    "and interp.check_circuit do so."
)


class Evidence(Protocol):
    """A record that speaks for a circuit or against it; a table too, where it has ``to_frame()``."""

    def plot(self) -> Any:
        """A plotly figure."""


def circuit_report(
    circuit: Circuit,
    path: str | Path,
    *,
    scores: EdgeScores | None = None,
    prompts: PromptPairs | None = None,
    roles: Mapping[str, str] | None = None,
    head_scores: HeadScores | None = None,
    evidence: Mapping[str, Evidence] | None = None,
    sections: Sequence[Section] = (),
    title: str | None = None,
    k: int = 40,
) -> Path:
    """Write a circuit as one self-contained HTML file, and return its path.

    It holds the picture (in both layouts where the circuit has positions), its ``k`` largest edges and nodes,
    and the provenance; with ``scores`` also the baselines and the map of all edges, with ``prompts`` a few of
    them. ``roles`` names what nodes do, ``head_scores`` adds a column a role to the table of nodes.
    ``evidence`` are records under a heading each, such as faithfulness and its checks: their figure and, up to
    ``k`` rows, their table. ``sections`` follow as they are.

    Raises :class:`CircuitError` for a circuit without edges and for scores of another graph, and
    :class:`~interp.errors.ExportError` as :func:`write_report` does.
    """
    if scores is not None and not scores.graph.same_edges(circuit.graph):
        raise CircuitError(
            f"the scores are of a graph of {scores.graph.n_edges} edges, the circuit of one of "
            f"{circuit.graph.n_edges}; give the scores that it was chosen from."
        )
    made = circuit.provenance
    parts = [
        _summary(circuit, scores, prompts),
        Section("The circuit", figures=_figures(circuit, roles)),
        _edges(circuit, k),
        _nodes(circuit, roles or {}, head_scores, k),
    ]
    if scores is not None:
        parts.append(Section("Scores of all edges", figures=(scores.plot(),)))
    parts += [_evidence(name, record, k) for name, record in (evidence or {}).items()]
    if not evidence and not sections:
        parts.append(Section("Not proved", (_UNPROVED,)))
    parts += [*sections, provenance_section(made)]
    return write_report(
        path,
        title or f"Circuit: {made.task or 'custom task'} on {made.model}",
        parts,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _summary(circuit: Circuit, scores: EdgeScores | None, prompts: PromptPairs | None) -> Section:
    made, graph = circuit.provenance, circuit.graph
    share = circuit.n_edges / graph.n_edges
    text = (
        f"{circuit.n_edges:,} of the model's {graph.n_edges:,} edges ({share:.2%}) between {len(circuit.nodes)} of its "
        f"{len(graph.nodes):,} nodes: {circuit.how}."
    )
    if made.method is not None:
        what, base = name_patch(replace(made, direction=made.direction or "noise"))
        put = f"putting {what} into the {base} run along one edge alone"
        what_it_is = f", an estimate of {put}" if is_estimate(made) else f": {put}"
        text += f" Edges were scored by {name_method(made.method)}{what_it_is}."
    if scores is not None:
        return summary_section(text, made.metric, scores.clean, scores.corrupted, prompts)
    return Section("What was done", (text,))


def _figures(circuit: Circuit, roles: Mapping[str, str] | None) -> tuple[Any, ...]:
    layouts = ("position", "head") if circuit.graph.positions else ("head",)
    return tuple(circuit.plot(layout=layout, roles=roles) for layout in layouts)


def _edges(circuit: Circuit, k: int) -> Section:
    graph, numbers = circuit.graph, circuit.edge_numbers
    values = None if circuit.values is None else circuit.values.double().cpu().numpy()
    if values is not None:
        numbers = numbers[np.argsort(-np.nan_to_num(np.abs(values[numbers]), nan=-1.0), kind="stable")]
    rows = tuple(
        (graph.edge_name(edge), show_edge(graph, edge), None if values is None else float(values[edge]))
        for edge in numbers[:k].tolist()
    )
    text = (_VALUES,) if values is not None else ("The circuit came without values of its edges.",)
    return Section(
        _ranked("Edges", "largest", len(rows), len(numbers)),
        text,
        (Table(("edge", "between", "value"), rows),),
    )


def _nodes(circuit: Circuit, roles: Mapping[str, str], head_scores: HeadScores | None, k: int) -> Section:
    """Nodes by the size of what leaves them; the logits, which nothing leaves, come last."""
    graph, numbers = circuit.graph, circuit.edge_numbers
    values = None if circuit.values is None else circuit.values.double().cpu().numpy()
    writers, readers = graph.edge_writer[numbers], graph.edge_reader[numbers]
    named = {graph.find_node(name) if name in graph.nodes else name: role for name, role in roles.items()}
    found: list[tuple[Cell, ...]] = []
    for name in circuit.nodes:
        node = graph.find_node(name)
        entering = sum(int((readers == i).sum()) for i, fed in enumerate(graph.fed) if node in fed)
        leaving = writers == node
        out = float(values[numbers[leaving]].sum()) if values is not None and leaving.any() else None
        shown = show_node(graph, node)
        row: list[Cell] = [shown, entering, int(leaving.sum()), out]
        if roles:
            row.append(named.get(node) or named.get(shown) or "")
        found.append((*row, *_head_cells(graph, node, head_scores)))
    if values is not None:
        found.sort(key=lambda row: -abs(row[3]) if isinstance(row[3], float) else math.inf)
    columns = ["node", "edges in", "edges out", "out"] + ["role"] * bool(roles)
    columns += list(head_scores.values) if head_scores is not None else []
    text = (_NODES,) if head_scores is None else (_NODES, _define(head_scores))
    rows = tuple(found[:k])
    return Section(_ranked("Nodes", "strongest", len(rows), len(found)), text, (Table(tuple(columns), rows),))


def _head_cells(graph: Graph, node: int, head_scores: HeadScores | None) -> list[Cell]:
    """The scores of a head for every role; dashes for other nodes and for layers that were not scored."""
    if head_scores is None:
        return []
    writer = graph.writers[node] if node < len(graph.writers) else None
    if writer is None or writer.kind != "head" or writer.layer not in head_scores.layers:
        return [None] * len(head_scores.values)
    row = head_scores.layers.index(writer.layer)
    return [float(table[row, writer.index]) for table in head_scores.values.values()]


def _define(head_scores: HeadScores) -> str:
    defined = (f"{name}: {role.definition} ({role.units})" for name, role in head_scores.roles.items())
    return f"Scores of heads: {'; '.join(defined)}."


def _ranked(what: str, which: str, shown: int, of: int) -> str:
    return what if shown == of else f"{what}: the {shown} {which} of {of:,}"


def _evidence(name: str, record: Evidence, k: int) -> Section:
    tables: tuple[Table, ...] = ()
    text: tuple[str, ...] = ()
    if hasattr(record, "to_frame"):
        frame = record.to_frame()
        if len(frame) > k:
            text = (f"The first {k} of {len(frame):,} rows:",)
        rows = tuple(tuple(map(_cell, row)) for row in frame.head(k).itertuples(index=False, name=None))
        tables = (Table(tuple(map(str, frame.columns)), rows),)
    return Section(name, text, tables, (record.plot(),))


def _cell(value: Any) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return str(value)
