"""The edges of a circuit's picture: curves by sign, size and kind of reading, with hover and legends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from interp.plots.circuit_layout import CircuitLayout, bend_edge, bend_move
from interp.plots.scales import BLUE, GREY, RED
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, show_token
from interp.results.circuit import Circuit
from interp.results.circuit_plan import CircuitPlan, Link, show_node, show_reader
from interp.results.graph import Graph

_THINNEST, _THICKEST = 0.8, 6.0
_CLASSES = 8
"""Widths of edges that are told apart; a trace has only one."""
_KINDS = {"q": "into queries", "k": "into keys", "v": "into values", "other": "into MLPs and logits"}
_DASHES = {"q": "6px,3px", "k": "1.5px,2.5px", "v": "solid", "other": "solid"}
_PORTS = {"q": "rgb(230,140,20)", "k": "rgb(60,145,80)", "v": "rgb(135,80,160)", "other": GREY}
_MEANINGS = {1: "supports the clean answer", -1: "opposes it", 0: "value not known"}
_COLORS = {1: BLUE, -1: RED, 0: GREY}
SIGN_LEGEND, KIND_LEGEND = "legend", "legend2"


@dataclass(frozen=True)
class EdgeLooks:
    """What an edge's value and reader make of its line."""

    graph: Graph
    values: Sequence[float] | None
    largest: float
    """Size of the largest value drawn."""

    def value(self, link: Link) -> float:
        """Share of the gap; NaN where it is not known."""
        return math.nan if self.values is None else self.values[link.edge]

    def kind(self, link: Link) -> str:
        """``q``, ``k``, ``v`` or ``other``."""
        kind = self.graph.readers[self.graph.edge_reader[link.edge]].kind
        return kind if kind in _KINDS else "other"

    def size(self, value: float) -> int:
        """Class of width: 1 to the number of classes."""
        if math.isnan(value):
            return 2
        return max(1, math.ceil(min(abs(value) / self.largest, 1.0) * _CLASSES - 1e-9))

    def group(self, link: Link) -> tuple[int, int, str]:
        """Class of width, sign and kind, which a trace has one of each."""
        value = self.value(link)
        sign = 0 if math.isnan(value) else -1 if value < 0 else 1
        return self.size(value), sign, self.kind(link)


def edge_looks(circuit: Circuit, plan: CircuitPlan) -> EdgeLooks:
    """How the edges of a plan are drawn."""
    values = None if circuit.values is None else circuit.values.double().tolist()
    looks = EdgeLooks(circuit.graph, values, 1.0)
    sizes = [abs(looks.value(link)) for link in plan.links]
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    return EdgeLooks(circuit.graph, values, largest or 1.0)


def add_edges(sheet: Sheet, panel: Panel, plan: CircuitPlan, placed: CircuitLayout, looks: EdgeLooks) -> None:
    """Curves, the weak ones below, and invisible points along them that tell their names on hover."""
    groups: dict[tuple[int, int, str], list[tuple[int, Link]]] = {}
    for number, link in enumerate(plan.links):
        groups.setdefault(looks.group(link), []).append((number, link))
    points: dict[str, list[tuple[float, float, str]]] = {}
    for (size, sign, kind), members in sorted(groups.items()):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for number, link in members:
            side = 1 if number % 2 else -1
            curve = bend_edge(placed, placed.boxes[link.source], placed.boxes[link.target], kind, side)
            x, y = (np.round(part, 1).tolist() for part in curve)
            xs += [*x, None]
            ys += [*y, None]
            text = describe_edge(plan.graph, link.edge, looks.value(link))
            places = (len(x) // 3, len(x) // 2, 2 * len(x) // 3)
            points.setdefault(kind, []).extend((x[i], y[i], text) for i in places)
        line = dict(color=_COLORS[sign], width=_width(size), dash=_DASHES[kind], shape="spline")
        _add_lines(sheet, panel, xs, ys, line, 0.4 + 0.5 * size / _CLASSES, kind)
    for kind, found in points.items():
        sheet.figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in found],
                y=[y for _, y, _ in found],
                mode="markers",
                marker=dict(size=9, opacity=0),
                hovertext=[text for _, _, text in found],
                hovertemplate="%{hovertext}<extra></extra>",
                name=f"hover {kind}",
                legend=KIND_LEGEND,
                legendgroup=kind,
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )


def add_moves(sheet: Sheet, panel: Panel, plan: CircuitPlan, placed: CircuitLayout) -> None:
    """Dotted lines from where keys and values are read to where their heads act."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for source, target in plan.moves:
        x, y = bend_move(placed.boxes[source], placed.boxes[target])
        xs += [*np.round(x, 1).tolist(), None]
        ys += [*np.round(y, 1).tolist(), None]
    _add_lines(sheet, panel, xs, ys, dict(color=GREY, width=1, dash="dot", shape="spline"), 0.7, "moves")


def add_ports(sheet: Sheet, panel: Panel, plan: CircuitPlan, placed: CircuitLayout, looks: EdgeLooks) -> None:
    """A dot at every port of a head that an edge enters."""
    for kind in ("q", "k", "v"):
        boxes = {link.target: placed.boxes[link.target] for link in plan.links if looks.kind(link) == kind}
        if not boxes:
            continue
        sheet.figure.add_trace(
            go.Scatter(
                x=[box.port(kind) for box in boxes.values()],
                y=[box.bottom for box in boxes.values()],
                mode="markers",
                marker=dict(size=5, color=_PORTS[kind]),
                hoverinfo="skip",
                name=f"ports {kind}",
                legend=KIND_LEGEND,
                legendgroup=kind,
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )


def add_edge_legends(sheet: Sheet, panel: Panel, plan: CircuitPlan, looks: EdgeLooks) -> None:
    """What colours and widths mean, and the kinds of reading, which a click hides."""
    groups = {looks.group(link) for link in plan.links}
    signs = {sign for _, sign, _ in groups}
    entries = [(_MEANINGS[sign], dict(color=_COLORS[sign], width=3)) for sign in (1, -1, 0) if sign in signs]
    if signs & {1, -1}:
        for share in (1.0, 0.25):
            value = share * looks.largest
            width = _width(looks.size(value))
            entries.append((f"{value:.2g} of the gap", dict(color=GREY, width=width)))
    for name, line in entries:
        add_sample(sheet, panel, SIGN_LEGEND, name, line=line, mode="lines")
    sheet.add_legend([name for name, _ in entries], SIGN_LEGEND)
    kinds = [kind for kind in _KINDS if any(kind == group[2] for group in groups)]
    for kind in kinds:
        line = dict(color=GREY, width=2, dash=_DASHES[kind])
        marker = dict(color=_PORTS[kind], size=6 if kind != "other" else 0.1)
        add_sample(
            sheet,
            panel,
            KIND_LEGEND,
            _KINDS[kind],
            line=line,
            marker=marker,
            mode="lines+markers",
            legendgroup=kind,
        )
    sheet.add_legend([_KINDS[kind] for kind in kinds], KIND_LEGEND)


def describe_edge(graph: Graph, edge: int, value: float) -> str:
    """What hovering an edge tells, escaped."""
    name = (
        f"<b>{show_node(graph, graph.edge_writer[edge])} → {show_reader(graph, graph.edge_reader[edge])}</b>"
    )
    where = [f"read at {show_position(graph, graph.edge_position[edge])}"] if graph.positions else []
    return "<br>".join([name, *where, escape_text(graph.edge_name(edge)), say_share(value)])


def show_position(graph: Graph, position: int) -> str:
    """``END``, ``14 ·Mary``; escaped."""
    name = escape_text(graph.positions[position])
    return f"{name} {show_token(graph.position_tokens[position])}" if graph.position_tokens else name


def say_share(value: float) -> str:
    """A value in words."""
    return "value not known" if math.isnan(value) else f"carries {value:+.3f} of the gap".replace("-", "−")


def _width(size: int) -> float:
    return _THINNEST + (_THICKEST - _THINNEST) * size / _CLASSES


def _add_lines(
    sheet: Sheet,
    panel: Panel,
    x: list[float | None],
    y: list[float | None],
    line: dict[str, object],
    opacity: float,
    kind: str,
) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line=line,
            opacity=opacity,
            hoverinfo="skip",
            name=kind,
            legend=KIND_LEGEND,
            legendgroup=kind,
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def add_sample(sheet: Sheet, panel: Panel, legend: str, name: str, **style: object) -> None:
    """An entry of a legend without a point in the picture."""
    sheet.figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            name=name,
            legend=legend,
            hoverinfo="skip",
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
            **style,
        )
    )
