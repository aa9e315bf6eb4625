"""Everything that was checked of one circuit, in one figure."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.circuit_knockouts import add_completeness, add_minimality
from interp.plots.circuit_tests import add_test, format_p
from interp.plots.faithfulness import add_levels
from interp.plots.heatmaps import name_ticks, to_array
from interp.plots.scales import BLUE, GREY
from interp.plots.sheet import Sheet
from interp.plots.tables import add_table
from interp.plots.tokens import escape_text
from interp.results.circuit_checks import CircuitCheck

_SIDE = 256
_TEST_WIDTH, _TEST_HEIGHT = 226, 96
_KINDS = {"connected": "random connected", "degree": "random, same degrees", "uniform": "random edges"}


def plot_circuit_check(check: CircuitCheck) -> go.Figure:
    """Draw faithfulness beside random circuits, completeness, minimality, and every test with its p-value."""
    sheet = Sheet()
    _add_faithfulness(sheet, check)
    add_completeness(sheet, check.completeness, "complete? the same nodes knocked out", _SIDE)
    add_minimality(sheet, check.minimality, "minimal? each node taken out", _SIDE)
    sheet.start_band()
    tests = check.tests
    add_table(
        sheet,
        "tests",
        [
            ("test", [test.name for test in tests]),
            ("null hypothesis", [test.null for test in tests]),
            ("p", [format_p(test.p_value) for test in tests]),
            ("outcome", [test.verdict for test in tests]),
            ("as an ideal circuit", ["yes" if test.holds else "no" for test in tests]),
        ],
    )
    sheet.start_band()
    for test in tests:
        add_test(sheet, test, test.name, _TEST_WIDTH, _TEST_HEIGHT)
    found = check.faithfulness
    sheet.add_note(f"{check.circuit.n_edges} of {found.n_total} edges, {len(check.circuit.nodes)} nodes")
    sheet.add_note("faithfulness: 0 = everything ablated, 1 = the whole model")
    sheet.add_note(f"whiskers: {found.confidence:.0%} bootstrap interval over {len(found.full)} prompts")
    sheet.add_note("red: against the circuit")
    return sheet.finish("Is the circuit faithful, complete and minimal?", check.provenance.summary())


def _add_faithfulness(sheet: Sheet, check: CircuitCheck) -> None:
    """The circuit with its interval, and every random circuit a point."""
    found = check.faithfulness
    value, low, high = (float(t[0, 0]) for t in (found.values, found.low, found.high))
    names = name_ticks(["this circuit", *(_KINDS.get(c.kind, c.kind) for c in found.nulls)], "")
    pitch = 52
    left = 14 + round(names.longest * 6.4)
    panel = sheet.add_panel("faithful?", _SIDE, len(names) * pitch, left=left, bottom=46)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False)
    sheet.figure.add_trace(
        go.Scatter(
            x=[value],
            y=[0],
            mode="markers",
            marker=dict(color=BLUE, size=12),
            error_x=dict(
                type="data", symmetric=False, array=[high - value], arrayminus=[value - low], width=6
            ),
            hovertext=[f"<b>this circuit</b><br>faithfulness {value:z.3f} [{low:z.3f}, {high:z.3f}]"],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
            **shared,
        )
    )
    for place, curve in enumerate(found.nulls, start=1):
        drawn = to_array(found.null_values(curve))[0]
        sheet.figure.add_trace(
            go.Scatter(
                x=drawn,
                y=[place] * len(drawn),
                mode="markers",
                marker=dict(color=GREY, size=7, opacity=0.5),
                hovertext=[
                    f"<b>{escape_text(str(curve))}</b><br>{curve.n_drawn[0]} edges drawn, {n} of them connected"
                    f"<br>faithfulness {f:z.3f}"
                    for n, f in zip(curve.n_edges[0].tolist(), drawn, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                cliponaxis=False,
                **shared,
            )
        )
    ends = [0.0, 1.0, value, low, high, *(float(v) for c in found.nulls for v in found.null_values(c)[0])]
    ends = [end for end in ends if end == end]
    air = 0.06 * (max(ends) - min(ends))
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "faithfulness f", range=[min(ends) - air, max(ends) + air], zeroline=False
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[len(names) - 0.5, -0.5],
        tickvals=list(range(len(names))),
        ticktext=list(names.texts),
        showgrid=False,
        zeroline=False,
    )
    add_levels(sheet, panel, "x")
