"""How well scores of edges find a known circuit: the ROC curve, and precision against recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.scales import GREY, LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.ranking import Ranking
from interp.results.recovery import Recovery

_SIDE = 330
_RANGE = (-0.03, 1.03)
_MOST_POINTS = 2000
"""Of more distinct scores, only those are drawn at which a curve turns."""


def plot_recovery(recovery: Recovery) -> go.Figure:
    """Draw true against false positives, and precision against recall, of edges and of nodes.

    A point stands for a distinct score and everything above it: equal scores are one step. Areas
    are those of the record, and dotted lines what a random order would give. Nodes are left out
    where all or none of them are true.
    """
    sheet = Sheet()
    edges, nodes, missed = recovery.edges, recovery.nodes, len(recovery.missed)
    named = [("edges", edges, recovery.graph.edge_names(edges.order))]
    if nodes.is_defined:
        named.append(("nodes", nodes, [recovery.node_names[i] for i in nodes.order]))
    _add_roc(sheet, named)
    _add_precision(sheet, named)
    sheet.add_note(f"{edges.n_true} of {edges.n} edges are true")
    sheet.add_note(f"{missed or 'none'} of them not above all others")
    if not nodes.is_defined:
        sheet.add_note(f"{'all' if nodes.n_true else 'no'} nodes are true, so they are not drawn")
    sheet.add_note("dotted: a random order")
    return sheet.finish("Recovery of a known circuit", recovery.provenance.summary())


Named = Sequence[tuple[str, Ranking, Sequence[str]]]
"""What is ranked, how, and the names in order of their rank."""


def _add_roc(sheet: Sheet, named: Named) -> None:
    panel = sheet.add_panel("ROC curve", _SIDE, _SIDE, left=62, bottom=48)
    panel.legend, panel.legend_lines = "legend", len(named)
    _add_chance(sheet, panel, GREY, 0.0, 1.0)
    for number, (kind, ranking, names) in enumerate(named):
        x, y = ranking.roc
        shown = _corners(ranking)
        at = np.r_[0, shown + 1]
        texts = ["nothing taken yet", *_describe(ranking, names, shown)]
        label = f"{kind}: area {ranking.auroc:.3f}"
        _add_curve(sheet, panel, number, x[at], y[at], texts, label, "linear", panel.legend)
    _write_axes(sheet, panel, "false positive rate", "true positive rate")


def _add_precision(sheet: Sheet, named: Named) -> None:
    panel = sheet.add_panel("precision and recall", _SIDE, _SIDE, left=62, bottom=48)
    panel.legend, panel.legend_lines = "legend2", len(named)
    for number, (kind, ranking, names) in enumerate(named):
        chance = ranking.n_true / ranking.n
        _add_chance(sheet, panel, LINES[number], chance, chance)
        recall, precision = ranking.precision_recall
        shown = _corners(ranking)
        # the first step begins at no recall, and has the precision of what it finds
        x, y = np.r_[0.0, recall[shown]], np.r_[precision[0], precision[shown]]
        texts = _describe(ranking, names, shown)
        label = f"{kind}: average precision {ranking.average_precision:.3f}"
        _add_curve(sheet, panel, number, x, y, [texts[0], *texts], label, "vh", panel.legend)
    _write_axes(sheet, panel, "recall", "precision")


def _add_curve(
    sheet: Sheet,
    panel: Panel,
    number: int,
    x: np.ndarray,
    y: np.ndarray,
    texts: list[str],
    name: str,
    shape: str,
    legend: str,
) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers" if len(x) <= 60 else "lines",
            line=dict(color=LINES[number], width=2, shape=shape, dash="solid" if number == 0 else "dash"),
            marker=dict(size=6, symbol="circle" if number == 0 else "square-open"),
            name=escape_text(name),
            hovertext=texts,
            hovertemplate="%{hovertext}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
            legend=legend,
            showlegend=True,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_chance(sheet: Sheet, panel: Panel, color: str, start: float, end: float) -> None:
    sheet.figure.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[start, end],
            mode="lines",
            line=dict(color=color, width=1, dash="dot"),
            hoverinfo="skip",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _write_axes(sheet: Sheet, panel: Panel, x: str, y: str) -> None:
    suffix = panel.xaxis[1:]
    for axis, title in ((f"xaxis{suffix}", x), (f"yaxis{suffix}", y)):
        sheet.figure.layout[axis] = value_axis(title, range=list(_RANGE), tickvals=[0, 0.25, 0.5, 0.75, 1])


def _corners(ranking: Ranking) -> np.ndarray:
    """Steps to draw: all, or those of many that find something true or stand right before one that does."""
    if len(ranking.ends) <= _MOST_POINTS:
        return np.arange(len(ranking.ends))
    finds = np.diff(ranking.found, prepend=0) > 0
    return np.flatnonzero(finds | np.r_[finds[1:], True])


def _describe(ranking: Ranking, names: Sequence[str], steps: np.ndarray) -> list[str]:
    """What each of these steps adds, and how much is taken and found with it."""
    ranked, starts = ranking.scores[ranking.order], np.r_[0, ranking.ends[:-1]]
    texts = []
    for start, end, found in zip(starts[steps], ranking.ends[steps], ranking.found[steps], strict=True):
        added = f"{end - start} of equal score" if end - start > 1 else escape_text(names[start])
        texts.append(f"<b>{added}</b><br>magnitude {ranked[start]:.3g}<br>{found} true of the first {end}")
    return texts
