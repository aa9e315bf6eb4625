"""A circuit as a graph: nodes in layers from the input to the logits, edges by sign and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from interp.errors import CircuitError, unknown_name
from interp.plots.circuit_edges import (
    SIGN_LEGEND,
    add_edge_legends,
    add_edges,
    add_moves,
    add_ports,
    add_sample,
    edge_looks,
    say_share,
    show_position,
)
from interp.plots.circuit_layout import (
    KEYS_TEXT,
    NODE_TEXT,
    CircuitLayout,
    lay_out,
    merge_positions,
    spot_text,
)
from interp.plots.heatmaps import Ticks, axis_title, label_room, name_ticks, token_ticks
from interp.plots.scales import FRAME, GREY
from interp.plots.sheet import CHARACTER, INK, TICK_SIZE, Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.circuit import Circuit
from interp.results.circuit_plan import CircuitPlan, Spot, keep_strongest, plan_circuit, show_node, show_spot
from interp.results.graph import Graph

Layout = Literal["position", "head"]

_FILLS = {
    "head": "rgb(255,255,255)",
    "MLP": "rgb(246,238,216)",
    "neuron": "rgb(226,239,222)",
    "latent": "rgb(226,239,222)",
    "coder's error": "rgb(244,221,221)",
    "input, logits": "rgb(233,237,242)",
}
_ROLES = ("rgb(198,219,239)", "rgb(253,208,162)", "rgb(199,233,192)", "rgb(218,203,235)", "rgb(252,205,216)",
          "rgb(254,240,170)", "rgb(190,232,228)", "rgb(216,216,216)")  # fmt: skip
_NODE_LEGEND = "legend3"


def plot_circuit(
    circuit: Circuit,
    *,
    layout: Layout | None = None,
    max_edges: int = 200,
    roles: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw a circuit: layers from the input at the bottom to the logits on top, edges by sign and size.

    An edge is blue where it supports the clean answer and red where it opposes it, and as wide as the share
    of the gap between clean and corrupted that it carries. Edges into a head end at its ports, from left
    to right query, key and value, and differ in dashes. Hover tells names and values.

    ``layout="position"``, the default of a circuit with positions, has a column a position. A node stands where
    it acts. A head reads keys and values at one position and writes at another: where these differ, dots
    without a box mark the reading, and a dotted line leads to the head at every position where it may use
    what it read; the circuit does not say how much it uses where. ``layout="head"`` has a column a head and one
    for the MLPs, and takes positions together; heads that are not in the circuit are faint.

    ``max_edges`` draws the strongest and says how many are left out. ``roles`` names what nodes do
    (``{"a9.h6": "name mover"}``, or ``"L9H6"``) and colours them.

    Raises :class:`CircuitError` for an unknown layout, positions that the circuit has not, a circuit
    without edges, ``max_edges`` below 1, and roles of nodes that the graph has not.
    """
    by = _check_layout(circuit, layout)
    shown = circuit if by == "position" else merge_positions(circuit)
    known = _known_roles(shown.graph, roles or {})
    drawn = keep_strongest(shown, max_edges)
    plan = plan_circuit(drawn)
    placed, looks = lay_out(plan, by), edge_looks(drawn, plan)
    sheet = Sheet()
    panel = _add_panel(sheet, plan.graph, placed, by)
    _add_absent(sheet, panel, placed)
    if plan.moves:
        add_moves(sheet, panel, plan, placed)
        sheet.add_note("dotted: from where a head's keys and values are read to where it acts")
    add_edges(sheet, panel, plan, placed, looks)
    kinds = _add_boxes(sheet, panel, plan, placed, known)
    _add_names(sheet, panel, drawn, plan, placed, known)
    add_ports(sheet, panel, plan, placed, looks)
    sheet.start_band()
    add_edge_legends(sheet, panel, plan, looks)
    sheet.add_legend(kinds, _NODE_LEGEND)
    if by == "head" and circuit.graph.positions:
        sheet.add_note("positions added")
    if drawn.n_edges < shown.n_edges:
        which = "strongest" if circuit.values is not None else "first"
        sheet.add_note(f"only the {drawn.n_edges} {which} of {shown.n_edges:,} edges are drawn")
    figure = sheet.finish(_title(circuit), _subtitle(circuit))
    # a click on these would hide the sample in the legend only
    fixed = dict(itemclick=False, itemdoubleclick=False)
    figure.update_layout({SIGN_LEGEND: fixed, _NODE_LEGEND: fixed})
    return figure


def _check_layout(circuit: Circuit, layout: Layout | None) -> Layout:
    if layout is not None and layout not in get_args(Layout):
        raise CircuitError(unknown_name("layout", str(layout), get_args(Layout)))
    if layout == "position" and not circuit.graph.positions:
        raise CircuitError("this circuit takes all positions together; draw it with layout='head'.")
    if not circuit.n_edges:
        raise CircuitError(f"a circuit without edges has no picture ({circuit.how}).")
    return layout or ("position" if circuit.graph.positions else "head")


def _known_roles(graph: Graph, roles: Mapping[str, str]) -> dict[int, str]:
    """By node number."""
    people = {show_node(graph, node): node for node in range(len(graph.nodes))}
    return {people[name] if name in people else graph.find_node(name): role for name, role in roles.items()}


def _add_panel(sheet: Sheet, graph: Graph, placed: CircuitLayout, by: Layout) -> Panel:
    names = [name for name, _, _ in placed.columns]
    if by == "head":
        ticks = name_ticks(names, "head")
    elif graph.position_tokens:
        ticks = token_ticks(graph.position_tokens)
    else:
        ticks = name_ticks(names, "position")
    rows = name_ticks([name for name, _ in placed.rows], "")
    room = min(right - left for _, left, right in placed.columns)
    panel = sheet.add_panel("", placed.width, placed.height, top=4, **label_room(ticks, rows, room))
    middles = [(left + right) / 2 for _, left, right in placed.columns]
    turned = ticks.longest * TICK_SIZE * CHARACTER + 6 > room
    suffix = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{suffix}"] = _axis(ticks, middles, placed.width, -90 if turned else 0)
    sheet.figure.layout[f"yaxis{suffix}"] = _axis(rows, [y for _, y in placed.rows], placed.height, 0)
    if by == "position":
        for _, left, right in placed.columns[1::2]:
            _shade(sheet, panel, left, right)
    return panel


def _axis(ticks: Ticks, places: Sequence[float], length: float, angle: int) -> dict[str, Any]:
    return dict(
        type="linear",
        range=[0, length],
        tickvals=list(places),
        ticktext=list(ticks.texts),
        tickangle=angle,
        tickfont=dict(size=TICK_SIZE),
        showgrid=False,
        zeroline=False,
        title=axis_title(ticks.title),
    )


def _shade(sheet: Sheet, panel: Panel, left: float, right: float) -> None:
    sheet.figure.add_shape(
        type="rect",
        xref=panel.xaxis,
        yref=f"{panel.yaxis} domain",
        x0=left,
        x1=right,
        y0=0,
        y1=1,
        line_width=0,
        fillcolor="rgb(245,246,249)",
        layer="below",
    )


def _add_absent(sheet: Sheet, panel: Panel, placed: CircuitLayout) -> None:
    """Faint dots for heads and MLPs that are not in the circuit."""
    if not placed.absent:
        return
    sheet.figure.add_trace(
        go.Scatter(
            x=[x for x, _ in placed.absent],
            y=[y for _, y in placed.absent],
            mode="markers",
            marker=dict(size=4, color=FRAME),
            hoverinfo="skip",
            name="not in the circuit",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_boxes(
    sheet: Sheet, panel: Panel, plan: CircuitPlan, placed: CircuitLayout, roles: Mapping[int, str]
) -> list[str]:
    """Frames of the nodes, filled by kind or role; returns the kinds, which are in the legend."""
    colors = dict(_FILLS)
    for number, role in enumerate(dict.fromkeys(roles.values())):
        colors[role] = _ROLES[number % len(_ROLES)]
    members: dict[str, list[Spot]] = {}
    for spot in plan.spots:
        if spot.kind == "node":
            members.setdefault(roles.get(spot.node) or _kind(plan.graph, spot.node), []).append(spot)
    kinds = [kind for kind in colors if kind in members]
    line = dict(color="rgb(110,110,110)", width=1)
    for kind in kinds:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for spot in members[kind]:
            box = placed.boxes[spot]
            left, right = box.x - box.width / 2, box.x + box.width / 2
            xs += [left, right, right, left, left, None]
            ys += [box.bottom, box.bottom, box.top, box.top, box.bottom, None]
        sheet.figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                fill="toself",
                fillcolor=colors[kind],
                line=line,
                hoverinfo="skip",
                name=f"boxes {escape_text(kind)}",
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
        marker = dict(symbol="square", size=12, color=colors[kind], line=line)
        add_sample(sheet, panel, _NODE_LEGEND, escape_text(kind), mode="markers", marker=marker)
    return kinds


def _kind(graph: Graph, node: int) -> str:
    kind = "input" if node == len(graph.writers) else graph.writers[node].kind
    if kind != "mlp":
        return {"input": "input, logits"}.get(kind, kind)
    units = graph.units_of(graph.writers[node].layer)
    return "coder's error" if units is not None and units.kind == "latent" else "MLP"


def _add_names(
    sheet: Sheet,
    panel: Panel,
    circuit: Circuit,
    plan: CircuitPlan,
    placed: CircuitLayout,
    roles: Mapping[int, str],
) -> None:
    graph = plan.graph
    sheet.figure.add_trace(
        go.Scatter(
            x=[placed.boxes[spot].x for spot in plan.spots],
            y=[placed.boxes[spot].y for spot in plan.spots],
            mode="text",
            text=[spot_text(graph, spot) for spot in plan.spots],
            textfont=dict(
                size=[KEYS_TEXT if spot.kind == "keys" else NODE_TEXT for spot in plan.spots],
                color=[GREY if spot.kind == "keys" else INK for spot in plan.spots],
            ),
            hovertext=[_describe(circuit, plan, spot, roles.get(spot.node)) for spot in plan.spots],
            hovertemplate="%{hovertext}<extra></extra>",
            name="nodes",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _describe(circuit: Circuit, plan: CircuitPlan, spot: Spot, role: str | None) -> str:
    graph = plan.graph
    lines = [f"<b>{show_spot(graph, spot)}</b>"]
    if role:
        lines.append(escape_text(role))
    if graph.positions:
        lines.append(f"at {show_position(graph, spot.position)}")
    out = [link.edge for link in plan.links if link.source == spot]
    into = sum(link.target == spot for link in plan.links)
    lines.append(f"{into} edges in, {len(out)} out")
    if out and circuit.values is not None:
        lines.append(f"its edges together: {say_share(float(circuit.values[out].double().sum()))}")
    return "<br>".join(lines)


def _title(circuit: Circuit) -> str:
    n = circuit.n_edges
    return f"Circuit of {'1 edge' if n == 1 else f'{n:,} edges'} between {len(circuit.nodes)} nodes"


def _subtitle(circuit: Circuit) -> str:
    n = circuit.graph.n_edges
    text = f"{circuit.provenance.summary()} · {circuit.n_edges / n:.2%} of {n:,} edges: {circuit.how}"
    if circuit.values is None:
        return f"{text} · without values, all edges alike"
    return f"{text} · value of an edge: the share it carries of the gap between corrupted (0) and clean (1)"
