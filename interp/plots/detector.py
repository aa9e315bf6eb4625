"""Detectors: ROC curves, scores of both sides, and what a guard decides."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.faithfulness import rgba
from interp.plots.heatmaps import add_heatmap, name_ticks, to_array
from interp.plots.scales import BLUE, GREY, LINES, sequential_scale
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.agreement import Estimate
from interp.results.detector import GUARD_CELLS, DetectorReport, GuardReport

_SIDE, _WIDTH, _HEIGHT = 300, 420, 300
_INK = "rgb(40,40,40)"
_LONGEST = 40
_COLORS = (GREY, LINES[1], "rgb(178,24,43)", BLUE)
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")


def plot_detector(report: DetectorReport) -> go.Figure:
    """Draw the ROC curve, and the scores of positive and negative prompts with the threshold between them."""
    sheet = Sheet()
    _add_roc(sheet, report)
    _add_scores(sheet, report)
    sheet.add_note(f"{len(report.positive)} positive and {len(report.negative)} negative prompts held out")
    sheet.add_note(f"AUC {_shown(report.auc)}")
    if report.true_rate is not None and report.false_rate is not None:
        sheet.add_note(
            f"flagged: {_shown(report.true_rate)} of positives, {_shown(report.false_rate)} of negatives"
        )
    if report.wanted_rate is not None:
        sheet.add_note(
            f"threshold calibrated to a false positive rate of {report.wanted_rate:g} on {report.n_calibration} others"
        )
    sheet.add_note(f"{report.confidence:.0%} intervals")
    return sheet.finish(f"Detection: {shorten(report.name, _LONGEST)}", report.provenance.summary())


def _shown(one: Estimate) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _add_roc(sheet: Sheet, report: DetectorReport) -> None:
    panel = sheet.add_panel("ROC curve", _SIDE, _SIDE, left=62, bottom=48)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, showlegend=False)
    sheet.figure.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line=dict(color=GREY, width=1, dash="dot"),
            hoverinfo="skip",
            **shared,
        )
    )
    x, y = report.ranking.roc
    sheet.figure.add_trace(
        go.Scatter(
            x=x.tolist(),
            y=y.tolist(),
            mode="lines",
            line=dict(color=BLUE, width=2),
            hovertemplate="false positive rate %{x:.3f}<br>true positive rate %{y:.3f}<extra></extra>",
            cliponaxis=False,
            **shared,
        )
    )
    if report.true_rate is not None and report.false_rate is not None:
        sheet.figure.add_trace(
            go.Scatter(
                x=[report.false_rate.value],
                y=[report.true_rate.value],
                mode="markers",
                marker=dict(size=10, color="white", line=dict(color=_INK, width=2)),
                error_x=_whisker(report.false_rate),
                error_y=_whisker(report.true_rate),
                hovertemplate="at the threshold<br>%{x:.3f}, %{y:.3f}<extra></extra>",
                cliponaxis=False,
                **shared,
            )
        )
    for axis, title in (("xaxis", "false positive rate"), ("yaxis", "true positive rate")):
        sheet.figure.layout[f"{axis}{panel.xaxis[1:]}"] = value_axis(
            title, range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1]
        )


def _whisker(one: Estimate) -> dict[str, object]:
    ends = dict(array=[one.high - one.value], arrayminus=[one.value - one.low])
    return dict(type="data", symmetric=False, color=_INK, thickness=1.2, width=4) | ends


def _add_scores(sheet: Sheet, report: DetectorReport) -> None:
    sides = (("positive", to_array(report.positive), BLUE), ("negative", to_array(report.negative), GREY))
    every = np.concatenate([scores for _, scores, _ in sides])
    extra = [] if report.threshold is None else [report.threshold]
    edges = np.histogram_bin_edges(every, bins=min(40, max(8, round(len(every) ** 0.5))))
    if edges[0] == edges[-1]:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    panel = sheet.add_panel("scores of prompts held out", _WIDTH, _HEIGHT, left=62, bottom=48)
    panel.legend, panel.legend_lines = "legend", 2
    width = float(edges[1] - edges[0])
    top = 0.0
    for name, scores, color in sides:
        share = np.histogram(scores, edges)[0] / len(scores)
        top = max(top, float(share.max()))
        sheet.figure.add_trace(
            go.Bar(
                x=((edges[1:] + edges[:-1]) / 2).tolist(),
                y=share.tolist(),
                width=width,
                marker=dict(color=rgba(color, 0.55), line=dict(color=color, width=1)),
                name=f"{name} ({len(scores)})",
                legend="legend",
                showlegend=True,
                hovertemplate=f"{name}<br>score %{{x:.3g}}<br>share %{{y:.3f}}<extra></extra>",
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    sheet.figure.update_layout(barmode="overlay")
    low, high = min([float(edges[0]), *extra]), max([float(edges[-1]), *extra])
    air = 0.04 * (high - low)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis("score", range=[low - air, high + air], zeroline=False)
    sheet.figure.layout[f"yaxis{number}"] = value_axis("share of prompts", range=[0, 1.08 * top])
    if report.threshold is not None:
        _add_line(sheet, panel, x=report.threshold)


def _add_line(sheet: Sheet, panel: Panel, *, x: float | None = None, y: float | None = None) -> None:
    """A dashed line across a panel, at a threshold."""
    ends = (
        dict(xref=panel.xaxis, yref=f"{panel.yaxis} domain", x0=x, x1=x, y0=0, y1=1)
        if y is None
        else dict(xref=f"{panel.xaxis} domain", yref=panel.yaxis, x0=0, x1=1, y0=y, y1=y)
    )
    sheet.figure.add_shape(type="line", line=dict(color=_INK, width=1.5, dash="dash"), **ends)


def plot_guard(report: GuardReport) -> go.Figure:
    """Draw both scores of every prompt, by what is true of it, and the table of decisions."""
    sheet = Sheet()
    content, behaviour, truth = to_array(report.content), to_array(report.behaviour), report.truth.tolist()
    there = [cell for cell in range(4) if cell in truth]
    panel = sheet.add_panel("scores", _WIDTH, _HEIGHT, left=70, bottom=48)
    panel.legend, panel.legend_lines = "legend", len(there)
    for cell in there:
        picked = [i for i, one in enumerate(truth) if one == cell]
        sheet.figure.add_trace(
            go.Scatter(
                x=content[picked].tolist(),
                y=behaviour[picked].tolist(),
                mode="markers",
                marker=dict(size=7, color=_COLORS[cell], symbol=_SYMBOLS[cell], opacity=0.8),
                name=f"{GUARD_CELLS[cell]} ({len(picked)})",
                hovertext=[
                    f"truth: {GUARD_CELLS[cell]}<br>decided: {GUARD_CELLS[int(report.decided[i])]}"
                    for i in picked
                ],
                hovertemplate="%{hovertext}<br>content %{x:.3g}, behaviour %{y:.3g}<extra></extra>",
                legend="legend",
                showlegend=True,
                xaxis=panel.xaxis,
                yaxis=panel.yaxis,
            )
        )
    number = panel.xaxis[1:]
    for axis, title, values, limit in zip(
        ("xaxis", "yaxis"),
        ("content, read at the end of the instruction", "behaviour, read after it"),
        (content, behaviour),
        report.thresholds,
        strict=True,
    ):
        ends = np.array([values.min(), values.max(), limit])
        air = 0.06 * float(ends.max() - ends.min()) or 0.5
        limits = [float(ends.min()) - air, float(ends.max()) + air]
        sheet.figure.layout[f"{axis}{number}"] = value_axis(title, range=limits, zeroline=False)
    _add_line(sheet, panel, x=report.thresholds[0])
    _add_line(sheet, panel, y=report.thresholds[1])
    _add_table(sheet, report)
    sheet.add_note(f"balanced accuracy {report.accuracy:.3f}")
    sheet.add_note("dashed: thresholds")
    return sheet.finish("A guard: content apart from behaviour", report.provenance.summary())


def _add_table(sheet: Sheet, report: GuardReport) -> None:
    table = to_array(report.table)
    total = table.sum(1, keepdims=True)
    share = np.divide(table, total, out=np.full(table.shape, np.nan), where=total > 0)
    axis = sheet.add_color_axis(sequential_scale([share], "share of the row", high=1.0))
    names = [[f"truth: {row}<br>decided: {column}" for column in GUARD_CELLS] for row in GUARD_CELLS]
    add_heatmap(
        sheet,
        "prompts by what is true (rows) and decided",
        share,
        name_ticks(GUARD_CELLS, "decided"),
        name_ticks(GUARD_CELLS, ""),
        color_axis=axis,
        cell=(58, 58),
        names=names,
        details=None,
        hover="%{hovertext}<br>%{z:.1%}<extra></extra>",
        top_down=True,
        cell_text=[[escape_text(str(int(n))) for n in row] for row in table],
    )
