"""Tests of a circuit: what was seen, beside what it is compared with."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, GREY, RED
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.circuit_tests import IDEAL_KEEPS, HypothesisTest
from interp.results.phrases import capitalize

_WIDTH, _HEIGHT, _LEFT = 560, 150, 142
_REFERENCES = {
    "equivalence": "allowed by H0",
    "independence": "prompts permuted",
    "minimality": "edges added at random",
    "sufficiency": "random circuits",
    "partial necessity": "random circuits",
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FAR = 100.0
"""Largest over smallest value from which an axis is logarithmic."""


def plot_hypothesis_test(test: HypothesisTest) -> go.Figure:
    """Draw what was seen, a point an item, over what it is compared with, a point a draw.

    Red points are those whose null hypothesis is rejected against the circuit, blue the others. Of
    the equivalence test the shares that the null hypothesis allows are a bar.
    """
    sheet = Sheet()
    add_test(sheet, test, "", _WIDTH, _HEIGHT)
    sheet.add_note(f"H0: {test.null}")
    several = f", corrected for {len(test.items)} ({test.correction})" if len(test.items) > 1 else ""
    sheet.add_note(
        f"p = {format_p(test.p_value)}{several}, n = {test.n}, level {test.alpha:g}: {test.verdict}"
    )
    return sheet.finish(f"{capitalize(test.name)} test of a circuit", test.provenance.summary())


def add_test(sheet: Sheet, test: HypothesisTest, title: str, width: int, height: int) -> Panel:
    """One test as a panel of a sheet."""
    panel = sheet.add_panel(title, width, height, left=_LEFT, bottom=46)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False)
    seen, against = to_array(test.observed), to_array(test.reference)
    log, floor = _scale(test, np.concatenate([seen, against]))
    x_seen, x_against = (np.maximum(x, floor) if log else x for x in (seen, against))
    if test.name == "equivalence":
        line = dict(color=GREY, width=14)
        trace = go.Scatter(x=x_against, y=[0, 0], mode="lines", line=line, opacity=0.45, hoverinfo="skip")
    else:
        trace = go.Scatter(
            x=x_against,
            y=_spread(x_against),
            mode="markers",
            marker=dict(color=GREY, size=5, opacity=0.5),
            hovertext=[f"{_REFERENCES[test.name]}: {value:.4g}" for value in against],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    sheet.figure.add_trace(trace.update(**shared, cliponaxis=False))
    p_values = test.p_values.tolist()
    against_circuit = [(p <= test.alpha) == IDEAL_KEEPS[test.name] for p in p_values]
    sheet.figure.add_trace(
        go.Scatter(
            x=x_seen,
            y=1 + (_spread(x_seen) if len(seen) > 1 else np.zeros(1)),
            mode="markers",
            marker=dict(
                color=[RED if bad else BLUE for bad in against_circuit], size=7 if len(seen) > 1 else 12
            ),
            hovertext=[
                f"<b>{escape_text(item)}</b><br>{value:.4g}<br>p = {format_p(p)}"
                for item, value, p in zip(test.items, seen, p_values, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
            **shared,
        )
    )
    number = panel.xaxis[1:]
    own = "the circuit" if len(test.items) == 1 else "edges of the circuit"
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[-0.5, 1.5],
        tickvals=[0, 1],
        ticktext=[_REFERENCES[test.name], own],
        showgrid=False,
        zeroline=False,
        ticks="outside",
        tickcolor="rgba(0,0,0,0)",
    )
    sheet.figure.layout[f"xaxis{number}"] = _value_axis(test, log, np.concatenate([x_seen, x_against]))
    return panel


def format_p(p: float) -> str:
    """A p-value for people.

    >>> format_p(0.034), format_p(1e-12), format_p(0.5)
    ('0.034', '1e-12', '0.5')
    """
    return f"{p:.2g}"


def _scale(test: HypothesisTest, values: NDArray[np.float32]) -> tuple[bool, float]:
    """Whether the axis is logarithmic, and where 0 and what is almost 0 stands on it."""
    positive = values[values > 0]
    if test.name == "equivalence" or not len(positive):
        return False, 0.0
    top = float(positive.max())
    floor = max(float(positive.min()), top * 1e-6)
    return top / floor > _FAR, floor


def _value_axis(test: HypothesisTest, log: bool, values: NDArray[np.float32]) -> dict[str, object]:
    if test.name == "equivalence":
        return value_axis(test.statistic, range=[-0.02, 1.02], zeroline=False)
    if not log:
        return value_axis(test.statistic, rangemode="tozero")
    low, high = np.log10(values.min()), np.log10(values.max())
    air = 0.05 * (high - low)
    step = max(1, round((high - low) / 5))
    powers = range(int(np.ceil(low - air)), int(np.floor(high + air)) + 1, step)
    return value_axis(
        test.statistic,
        type="log",
        range=[low - air, high + air],
        zeroline=False,
        tickvals=[10.0**power for power in powers],
        ticktext=[_name_power(power) for power in powers],
    )


def _name_power(power: int) -> str:
    """``0.1``, ``1``, ``10``, or a power of 10 where that is shorter."""
    return f"{10.0**power:g}" if abs(power) <= 2 else "10" + str(power).translate(_RAISED)


def _spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Heights that keep near points apart, the same at every call."""
    found = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
    return found
