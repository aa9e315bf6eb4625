"""Gates of steerings: ROC of a condition, effects of gated steerings, and how a controller learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import CHARACTER, TICK_SIZE, Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.agreement import Estimate
from interp.results.steering_gate import SIDES, ConditionReport, ControllerHistory, GatedEffects, GateFigure

_SIDE = 250
_PITCH = 30
_LONGEST = 28
_ORANGE = LINES[1]
_ACT, _LEAVE = "prompts to act on", "prompts to leave alone"
_COLORS = {"act": BLUE, "leave": _ORANGE}
_NAMES = {"act": _ACT, "leave": _LEAVE}
_SYMBOLS = {"act": "circle", "leave": "diamond"}
_MOST_CURVES = 12
"""Weights drawn in one panel; of more, those that end farthest from 1."""


def plot_condition_report(found: ConditionReport) -> go.Figure:
    """Draw the ROC curve with the threshold's rates, the scores of both kinds, and AUC by site if several."""
    sheet = Sheet()
    _add_roc(sheet, found)
    _add_scores(sheet, found)
    if len(found.sites) > 1:
        texts = [
            f"AUC {_interval(Estimate(*row))}<br>{choosing:.3f} on the prompts that choose"
            for row, choosing in zip(found.site_auc.tolist(), found.choosing_auc.tolist(), strict=True)
        ]
        panel = _add_rows(sheet, "AUC by site", found.sites, "AUC", from_0=False)
        colors = [BLUE if number == found.chosen else GREY for number in range(len(found.sites))]
        estimates = [Estimate(*row) for row in found.site_auc.tolist()]
        _add_dots(sheet, panel, estimates, found.sites, texts, colors, "circle", 0.0, None)
        sheet.add_note(f"blue: {found.sites[found.chosen]}, chosen on other prompts")
    sheet.add_note(f"AUC {_interval(found.auc)}, TPR {_interval(found.tpr)}, FPR {_interval(found.fpr)}")
    sheet.add_note(f"threshold chosen for {found.target}, on other prompts")
    sheet.add_note(f"{found.confidence:.0%} intervals")
    return sheet.finish("A condition on prompts that it was not fitted on", found.provenance.summary())


def _interval(found: Estimate) -> str:
    return f"{found.value:z.3f} [{found.low:z.3f}, {found.high:z.3f}]"


def _add_roc(sheet: Sheet, found: ConditionReport) -> None:
    panel = sheet.add_panel("ROC curve, and the threshold's place", _SIDE, _SIDE, left=58, bottom=44)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False)
    x, y = found.roc
    sheet.figure.add_trace(
        go.Scatter(
            x=[0, 1], y=[0, 1], mode="lines", line=dict(color=GREY, width=1, dash="dot"), hoverinfo="skip", **shared
        )
    )  # fmt: skip
    sheet.figure.add_trace(
        go.Scatter(
            x=x.tolist(),
            y=y.tolist(),
            mode="lines",
            line=dict(color=BLUE, width=2, shape="hv"),
            hovertemplate="FPR %{x:.3f}<br>TPR %{y:.3f}<extra></extra>",
            **shared,
        )
    )
    tpr, fpr = found.tpr, found.fpr
    sheet.figure.add_trace(
        go.Scatter(
            x=[fpr.value],
            y=[tpr.value],
            mode="markers",
            marker=dict(color=_ORANGE, size=10, line=dict(color="white", width=1)),
            error_x=_whisker([fpr], _ORANGE),
            error_y=_whisker([tpr], _ORANGE),
            hovertext=[
                f"<b>threshold {found.threshold:.4g}</b><br>TPR {_interval(tpr)}<br>FPR {_interval(fpr)}"
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
            **shared,
        )
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("false-positive rate", range=[-0.02, 1.02])
    sheet.figure.layout[f"yaxis{number}"] = value_axis("true-positive rate", range=[-0.02, 1.02])


def _whisker(found: Sequence[Estimate], color: str) -> dict[str, object]:
    ends = dict(
        array=[e.high - e.value for e in found], arrayminus=[e.value - e.low for e in found]
    )  # fmt: skip
    return dict(type="data", symmetric=False, color=color, thickness=1.3, width=3) | ends


def _add_scores(sheet: Sheet, found: ConditionReport) -> None:
    panel = sheet.add_panel("scores of prompts", 1.2 * _SIDE, _SIDE, left=58, bottom=44)
    sides = {"act": to_array(found.yes), "leave": to_array(found.no)}
    every = np.concatenate([*sides.values(), [found.threshold]])
    air = 0.04 * float(np.ptp(every)) or 0.1
    edges = np.linspace(every.min() - air, every.max() + air, 26)
    middles = (edges[1:] + edges[:-1]) / 2
    for side, name in (("act", "should be open"), ("leave", "should be closed")):
        share = np.histogram(sides[side], edges)[0] / len(sides[side])
        sheet.figure.add_trace(
            go.Bar(
                x=middles.tolist(),
                y=share.tolist(),
                width=float(edges[1] - edges[0]),
                marker=dict(color=_COLORS[side], opacity=0.6, line_width=0),
                name=f"{name} ({len(sides[side])})",
                hovertemplate="score %{x:.3f}<br>share %{y:.3f}<extra></extra>",
                legend="legend",
                showlegend=True,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    sheet.figure.add_shape(
        type="line",
        x0=found.threshold,
        x1=found.threshold,
        y0=0,
        y1=1,
        xref=panel.xaxis,
        yref=f"{panel.yaxis} domain",
        line=dict(color=GREY, width=1.5, dash="dash"),
    )
    sheet.figure.update_layout(barmode="overlay")
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "score (dashed: threshold)", range=[float(edges[0]), float(edges[-1])], zeroline=False
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis("share of prompts", rangemode="tozero")
    panel.legend, panel.legend_lines = "legend", 2


def _add_rows(
    sheet: Sheet, title: str, names: Sequence[str], x_title: str, from_0: bool = True, width: float = 210
) -> Panel:
    """A panel with a row for every name, the first on top."""
    shown = [shorten(name, _LONGEST) for name in names]
    left = round(max(map(len, shown)) * TICK_SIZE * CHARACTER + 18)
    panel = sheet.add_panel(title, width, max(len(names) * _PITCH, 60), left=left, bottom=44)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        x_title, nticks=5, rangemode="tozero" if from_0 else "normal"
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[len(names) - 0.5, -0.5],
        tickvals=list(range(len(names))),
        ticktext=[escape_text(name) for name in shown],
        zeroline=False,
        showgrid=False,
    )
    return panel


def _add_dots(
    sheet: Sheet,
    panel: Panel,
    found: Sequence[Estimate],
    names: Sequence[str],
    texts: Sequence[str],
    colors: Sequence[str],
    symbol: str,
    shift: float,
    legend: str | None,
) -> None:
    """A dot with its interval in every row; ``legend`` names it there."""
    sheet.figure.add_trace(
        go.Scatter(
            x=[e.value for e in found],
            y=[i + shift for i in range(len(found))],
            mode="markers",
            marker=dict(size=8, symbol=symbol, color=list(colors)),
            error_x=_whisker(found, colors[0] if len(set(colors)) == 1 else GREY),
            name=legend or "",
            legendgroup=legend or "",
            legend="legend",
            showlegend=legend is not None and panel.number == 1,
            hovertext=[
                f"<b>{escape_text(name)}</b><br>{text}" for name, text in zip(names, texts, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def plot_gated_effects(found: GatedEffects) -> go.Figure:
    """Draw effect, KL and gate of every steering, on prompts to act on and prompts to leave alone."""
    sheet = Sheet()
    titles: dict[GateFigure, tuple[str, str]] = {
        "effect": ("effect of steering", "nats" if found.behaviour.endswith(", nats") else found.behaviour),
        "kl": ("KL to the unsteered model", "nats a token"),
        "gate": ("how far the gate is open", "factor"),
    }
    for figure, (title, unit) in titles.items():
        panel = _add_rows(sheet, title, found.arms, unit)
        for side, shift in zip(SIDES, (-0.15, 0.15), strict=True):
            estimates = [found.mean(arm, figure, side) for arm in found.arms]
            texts = [f"{_NAMES[side]}<br>{title} {_interval(e)}" for e in estimates]
            colors = [_COLORS[side]] * len(found.arms)
            _add_dots(sheet, panel, estimates, found.arms, texts, colors, _SYMBOLS[side], shift, _NAMES[side])
        if figure == "gate":
            sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"].range = [-0.03, max(1.03, _largest(found))]
        if panel.number == 1:
            panel.legend, panel.legend_lines = "legend", len(SIDES)
    sheet.add_note(f"effect: {found.behaviour}")
    if found.strength == found.strength:
        sheet.add_note(f"strength {found.strength:.3g}")
    sheet.add_note(
        f"{found.act_effect.shape[1]} prompts to act on, {found.leave_effect.shape[1]} to leave alone; lines: "
        f"{found.confidence:.0%} bootstrap intervals over prompts"
    )
    return sheet.finish(
        "Steering under gates, and what it does where it should not", found.provenance.summary()
    )


def _largest(found: GatedEffects) -> float:
    return 1.03 * max(found.mean(arm, "gate", side).high for arm in found.arms for side in SIDES)


def plot_controller_history(found: ControllerHistory) -> go.Figure:
    """Draw loss, effect, KL, gate and the weights of the steering's steps over the steps of training."""
    sheet = Sheet()
    x = found.steps.tolist()
    panels: list[tuple[str, str, dict[str, tuple[NDArray[np.float32], str]]]] = [
        ("loss", "loss", {"loss": (to_array(found.loss), GREY)}),
        ("effect of steering", "on the behaviour", {_ACT: (to_array(found.effect), BLUE)}),
        (
            "KL to the unsteered model",
            "nats a token",
            {_ACT: (to_array(found.act_kl), BLUE), _LEAVE: (to_array(found.leave_kl), _ORANGE)},
        ),
        (
            "gate",
            "mean, 0 to 1",
            {_ACT: (to_array(found.act_gate), BLUE), _LEAVE: (to_array(found.leave_gate), _ORANGE)},
        ),
    ]
    named: set[str] = set()
    for title, unit, curves in panels:
        if not any(np.isfinite(values).any() for values, _ in curves.values()):
            sheet.add_note(f"not measured: {title}")
            continue
        panel = _add_lines(sheet, title, x, curves, unit, "legend", named)
        if title == "gate":
            sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].range = [-0.03, 1.03]
            panel.legend, panel.legend_lines = "legend", 2
    _add_weights(sheet, found, x)
    sheet.add_note(f"trained on {found.objective}")
    if found.provenance.seed is not None:
        sheet.add_note(f"seed {found.provenance.seed}")
    return sheet.finish("Training of a steering controller", found.provenance.summary())


def _add_weights(sheet: Sheet, found: ControllerHistory, x: Sequence[int]) -> None:
    if len(found.channels) < 2:
        sheet.add_note("one step, whose weight is 1")
        return
    weights = to_array(found.weights)
    order = np.argsort(-np.abs(weights[-1] - 1), kind="stable")[:_MOST_CURVES]
    if len(order) < len(found.channels):
        sheet.add_note(
            f"weights of {len(order)} of {len(found.channels)} steps, those farthest from 1 at the end"
        )
    colors = (
        *LINES,
        "rgb(0,150,160)",
        "rgb(205,90,150)",
        "rgb(140,140,30)",
        "rgb(120,120,120)",
        "rgb(0,0,0)",
    )
    names = [f"{i} {found.channels[i]}" if found.channels.count(found.channels[i]) > 1 else found.channels[i]
             for i in sorted(order.tolist())]  # fmt: skip
    curves = {
        shorten(name, _LONGEST): (weights[:, i], colors[at % len(colors)])
        for at, (i, name) in enumerate(zip(sorted(order.tolist()), names, strict=True))
    }
    sheet.start_band()
    panel = _add_lines(
        sheet,
        "weights of the steering's steps where it should act",
        x,
        curves,
        "weight",
        "legend2",
        set(),
        1.7,
    )
    sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].rangemode = "tozero"
    sheet.add_legend(list(curves), "legend2")


def _add_lines(
    sheet: Sheet,
    title: str,
    x: Sequence[int],
    curves: dict[str, tuple[NDArray[np.float32], str]],
    unit: str,
    legend: str,
    named: set[str],
    wide: float = 0.82,
) -> Panel:
    panel = sheet.add_panel(title, wide * _SIDE, 0.66 * _SIDE, left=58, bottom=44)
    for name, (values, color) in curves.items():
        sheet.figure.add_trace(
            go.Scatter(
                x=list(x),
                y=values.tolist(),
                mode="lines" if len(x) > 40 else "lines+markers",
                line=dict(color=color, width=1.8),
                marker_size=5,
                name=escape_text(name),
                hovertemplate=f"<b>{escape_text(name)}</b><br>step %{{x}}: %{{y:.4f}}<extra></extra>",
                legend=legend,
                legendgroup=escape_text(name),
                showlegend=name not in named and name != "loss",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
        named.add(name)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("step", zeroline=False)
    sheet.figure.layout[f"yaxis{number}"] = value_axis(unit, nticks=5)
    return panel
