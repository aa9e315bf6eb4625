"""Steerings at equal dose: dose against effect, and effect against loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.faithfulness import add_band, rgba
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLACK, GREY, LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.steering_evaluation import CONCEPT_MEASURES, SteeringEvaluation

_WIDTH, _HEIGHT = 250, 190
_DASHES = ("solid", "dash", "dot", "dashdot")
_LONGEST = 34
_TITLES = {
    "concept": "concept in expected words",
    "generated": "concept in written words",
    "log odds": "log odds of a held-out probe",
    "attribute words": "mass on the attribute's words",
    "retention": "other attributes, expected words",
    "generated retention": "other attributes, written words",
    "legal": "legal sentences written",
    "loss": "rise of loss on neutral text",
    "kl": "KL on neutral text",
    "entropy": "rise of entropy on neutral text",
}
_UNITS = {"loss": "nats a token", "kl": "nats a token", "entropy": "nats a token", "log odds": "log odds"}
_RISES = ("loss", "entropy")
"""Drawn less the unsteered value: the difference is of pairs, and much better known than the level."""
_SHARES = ("concept", "generated", "attribute words", "retention", "generated retention", "legal")


def plot_steering_evaluation(found: SteeringEvaluation) -> go.Figure:
    """Draw every measure over the dose, and the effect against the loss that it costs.

    A line a method; grey bands are controls of the same KL, from the lowest end of their intervals to the highest;
    a dotted line is the unsteered model. Whiskers of methods are their bootstrap intervals. Loss and entropy are
    drawn less those of the unsteered model.
    """
    sheet = Sheet()
    concepts = [name for name in found.measures if name in CONCEPT_MEASURES]
    costs = [name for name in found.measures if name not in (*CONCEPT_MEASURES, "kl")]
    for number, measure in enumerate(concepts):
        _add_doses(sheet, found, measure, named=number == 0)
    if "loss" in found.measures:
        for measure in concepts[:1]:
            _add_trade(sheet, found, measure)
    sheet.add_legend([*_legend_names(found)])
    if costs:
        sheet.start_band()
        for measure in costs:
            _add_doses(sheet, found, measure, named=False)
    sheet.add_note(f"{found.confidence:.0%} bootstrap intervals over prompts, for controls over draws too")
    sheet.add_note("dotted: unsteered")
    if found.unreached:
        missing = ", ".join(found.unreached[:4]) + (" ..." if len(found.unreached) > 4 else "")
        sheet.add_note(f"not reached: {missing}")
    return sheet.finish(f"Steering to {found.target} at equal dose", found.provenance.summary())


def _legend_names(found: SteeringEvaluation) -> list[str]:
    names = [shorten(name, _LONGEST) for name in found.methods]
    return [*names, *(["controls"] if found.controls else [])]


def _style(number: int) -> tuple[str, str]:
    return LINES[number % len(LINES)], _DASHES[(number // len(LINES)) % len(_DASHES)]


def _panel(sheet: Sheet, title: str) -> Panel:
    return sheet.add_panel(title, _WIDTH, _HEIGHT, left=58, bottom=44)


def _add_doses(sheet: Sheet, found: SteeringEvaluation, measure: str, *, named: bool) -> None:
    panel = _panel(sheet, _TITLES[measure])
    at, doses = found.measures.index(measure), list(found.doses)
    rises = measure in _RISES
    values = to_array((found.shifts if rises else found.values)[:, :, at])
    base = 0.0 if rises else float(found.unsteered[at, 0])
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legend="legend")
    controls = [i for i, name in enumerate(found.conditions) if name in found.controls]
    span = float(np.log10(max(doses) / min(doses)))
    air = 0.06 * span or 0.5
    ends = [min(doses) / 10**air, max(doses) * 10**air]
    if controls:
        _add_controls(sheet, found, doses, values[controls], ends, shared, named)
    sheet.figure.add_trace(
        go.Scatter(
            x=ends,
            y=[base, base],
            mode="lines",
            line=dict(color=BLACK, width=1, dash="dot"),
            hovertext=[f"unsteered {base:z.3f}"] * 2,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            **shared,
        )
    )
    methods = [i for i, name in enumerate(found.conditions) if name in found.methods]
    # whiskers side by side: the axis is shared out where there is one dose, else moved apart by a hair
    step = 0.01 * span or 0.8 / max(len(methods), 4)
    for number, i in enumerate(methods):
        place = (number % 6 - 2.5 if span else number - (len(methods) - 1) / 2) * step
        sheet.figure.add_trace(go.Scatter(**_line(found, i, number, place, values[i], at, named), **shared))
    everything = np.concatenate([values.ravel(), [base]])
    limits = _limits(everything, measure)
    _write_dose_axes(sheet, panel, doses, ends, limits, _UNITS.get(measure, "share"))


def _limits(values: np.ndarray, measure: str) -> tuple[float, float]:
    if measure in _SHARES:
        return -0.03, 1.03
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    air = 0.06 * float(np.ptp(values)) or 0.1
    return float(values.min()) - air, float(values.max()) + air


def _write_dose_axes(
    sheet: Sheet,
    panel: Panel,
    doses: Sequence[float],
    ends: Sequence[float],
    limits: tuple[float, float],
    unit: str,
) -> None:
    number = panel.xaxis[1:]
    room = max(1, round(_WIDTH / 34))
    step = -(-len(doses) // room)
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "dose, nats of KL",
        type="log",
        range=[float(np.log10(end)) for end in ends],
        tickvals=list(doses)[::step],
        ticktext=[f"{dose:g}" for dose in doses][::step],
        zeroline=False,
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(unit, range=list(limits), nticks=5)


def _line(
    found: SteeringEvaluation,
    row: int,
    number: int,
    place: float,
    values: np.ndarray,
    at: int,
    named: bool,
) -> dict[str, object]:
    color, dash = _style(number)
    name = escape_text(shorten(found.conditions[row], _LONGEST))
    over = to_array(found.over_controls[row, :, at])
    texts = []
    for column, dose in enumerate(found.doses):
        value, low, high = values[column]
        text = f"<b>{name}</b><br>{dose:g} nats, strength {float(found.strengths[row, column]):.3g}<br>"
        text += f"{value:z.3f} [{low:z.3f}, {high:z.3f}]"
        if np.isfinite(over[column, 0]):
            text += (
                f"<br>over controls {over[column, 0]:+.3f} [{over[column, 1]:+.3f}, {over[column, 2]:+.3f}]"
            )
        texts.append(text)
    return dict(
        x=[dose * 10**place for dose in found.doses],
        y=values[:, 0].tolist(),
        mode="lines+markers",
        line=dict(color=color, width=1.8, dash=dash),
        marker=dict(size=5, color=color),
        error_y=dict(
            type="data",
            symmetric=False,
            array=(values[:, 2] - values[:, 0]).tolist(),
            arrayminus=(values[:, 0] - values[:, 1]).tolist(),
            color=rgba(color, 0.55),
            thickness=1,
            width=0,
        ),
        name=name,
        hovertext=texts,
        hovertemplate="%{hovertext}<extra></extra>",
        legendgroup=name,
        showlegend=named,
    )


def _add_controls(
    sheet: Sheet,
    found: SteeringEvaluation,
    doses: Sequence[float],
    values: np.ndarray,
    ends: Sequence[float],
    shared: dict[str, str],
    named: bool,
) -> None:
    """A band around all controls, [control, dose, end], and their mean."""
    kept = np.isfinite(values).all(2).any(0)
    if not kept.any():
        return
    x = [dose for dose, there in zip(doses, kept, strict=True) if there]
    part = values[:, kept]
    low, high = np.nanmin(part, axis=(0, 2)), np.nanmax(part, axis=(0, 2))
    mean = np.nanmean(part[..., 0], axis=0)
    texts = [
        f"<b>controls</b>, {dose:g} nats<br>mean {m:z.3f}, band {a:z.3f} to {b:z.3f}<br>"
        + escape_text("; ".join(found.controls))
        for dose, m, a, b in zip(x, mean, low, high, strict=True)
    ]
    if len(x) == 1:
        # across the panel: methods stand before it side by side
        x, texts = list(ends), 2 * texts
        low, high, mean = (np.repeat(one, 2) for one in (low, high, mean))
    group = dict(legendgroup="controls")
    add_band(sheet, x, low, high, rgba(GREY, 0.22), shared | group)
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=mean.tolist(),
            mode="lines+markers",
            line=dict(color=GREY, width=1.6),
            marker=dict(size=4, color=GREY),
            name="controls",
            hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=named,
            **(shared | group),
        )
    )


def _add_trade(sheet: Sheet, found: SteeringEvaluation, measure: str) -> None:
    """Effect against the rise of the loss: a line a condition, its doses from left to right."""
    panel = _panel(sheet, "effect against its loss")
    effect, loss = found.measures.index(measure), found.measures.index("loss")
    x, y = to_array(found.shifts[:, :, loss, 0]), to_array(found.values[:, :, effect, 0])
    number = 0
    for i, condition in enumerate(found.conditions):
        is_control = condition in found.controls
        color, dash = (GREY, "solid") if is_control else _style(number)
        number += not is_control
        name = escape_text(shorten(condition, _LONGEST))
        sheet.figure.add_trace(
            go.Scatter(
                x=x[i].tolist(),
                y=y[i].tolist(),
                mode="lines+markers",
                line=dict(color=color, width=1.4, dash=dash),
                marker=dict(size=5, color=color),
                name=name,
                hovertext=[
                    f"<b>{name}</b>, {dose:g} nats<br>{_TITLES[measure]} {y[i, j]:z.3f}<br>loss {x[i, j]:+.3f}"
                    for j, dose in enumerate(found.doses)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                legend="legend",
                legendgroup="controls" if is_control else name,
                showlegend=False,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    axis = panel.xaxis[1:]
    low, high = _limits(x, "loss")
    sheet.figure.layout[f"xaxis{axis}"] = value_axis(
        "rise of loss, nats a token", range=[low, high], nticks=5
    )
    sheet.figure.layout[f"yaxis{axis}"] = value_axis(
        _UNITS.get(measure, "share"), range=list(_limits(y, measure)), nticks=5
    )
