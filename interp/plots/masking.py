"""Damage from masking what a ranking puts first, what it puts last, and as much at random."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, GREY, LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.masking import MaskingCheck
from interp.results.phrases import capitalize, name_patch

_WIDTH, _HEIGHT = 430, 300


def plot_masking(check: MaskingCheck) -> go.Figure:
    """Draw damage over the share masked for the first, the last and random places of a ranking.

    Bands are standard errors over prompts (random draws averaged first). Beside it the gap between
    first and last with its bootstrap interval: the ranking tells them apart where that lies above 0.
    """
    sheet = Sheet()
    order = np.argsort(check.fractions, kind="stable")
    shares = [check.fractions[i] for i in order]
    metric = check.provenance.metric or "metric"
    panel = sheet.add_panel("damage", _WIDTH, _HEIGHT, left=66)
    panel.legend, panel.legend_lines = "legend", 3
    curves = (
        (f"{_places(check)} ranked first", to_array(check.most), BLUE, "solid"),
        ("as many at random", to_array(check.random.mean(1)), GREY, "dash"),
        (f"{_places(check)} ranked last", to_array(check.least), LINES[1], "solid"),
    )
    ends: list[float] = []
    for name, damage, color, dash in curves:
        ends += _add_curve(sheet, panel, shares, damage[order], name, color, dash)
    _write_axes(sheet, panel, shares, shorten(f"mean absolute change of {metric}", 48), ends)
    n, draws = check.most.shape[1], check.random.shape[1]
    if n > 1:
        drawn = "bands" if len(shares) > 1 else "whiskers"
        sheet.add_note(f"{drawn}: standard error over {n} prompts")
    sheet.add_note(f"random: mean of {draws} draws" if draws > 1 else "random: one draw")
    _add_gaps(sheet, check, shares, order)
    by = check.provenance.method or "a ranking"
    return sheet.finish(
        f"{capitalize(_places(check))} masked in the order of {by}: first, last and at random",
        _subtitle(check),
    )


def _add_curve(
    sheet: Sheet,
    panel: Panel,
    shares: list[float],
    damage: NDArray[np.float32],
    name: str,
    color: str,
    dash: str,
) -> list[float]:
    """Draw the mean over prompts of ``damage`` [fraction, prompt] and its standard error; return their ends."""
    mean, n = damage.mean(1), damage.shape[1]
    error = damage.std(1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legendgroup=escape_text(name))
    if n > 1 and len(shares) > 1:
        red_green_blue = color.removeprefix("rgb(").removesuffix(")")
        sheet.figure.add_trace(
            go.Scatter(
                x=[*shares, *reversed(shares)],
                y=np.concatenate([mean - error, (mean + error)[::-1]]),
                fill="toself",
                fillcolor=f"rgba({red_green_blue},0.18)",
                line_width=0,
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                **shared,
            )
        )
    sheet.figure.add_trace(
        go.Scatter(
            x=shares,
            y=mean,
            mode="lines+markers",
            line=dict(color=color, width=2, dash=dash),
            marker_size=7,
            # a band of one share has no width
            error_y=dict(type="data", array=error, color=color, thickness=1.5, width=5)
            if n > 1 and len(shares) == 1
            else None,
            name=escape_text(name),
            hovertext=[
                f"<b>{escape_text(name)}</b><br>{share:.0%} masked<br>damage {m:.4g}"
                + (f" ± {e:.2g}" if n > 1 else "")
                for share, m, e in zip(shares, mean, error, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            legend="legend",
            showlegend=True,
            cliponaxis=False,
            **shared,
        )
    )
    return [*(mean - error).tolist(), *(mean + error).tolist()]


def _add_gaps(sheet: Sheet, check: MaskingCheck, shares: list[float], order: NDArray[np.intp]) -> None:
    """First minus last at each share; filled markers where the interval lies above 0."""
    gaps = [check.gaps[i] for i in order]
    holds = [check.holds[i] for i in order]
    panel = sheet.add_panel(f"first minus last, {check.confidence:.0%} intervals", _WIDTH, _HEIGHT, left=66)
    sheet.figure.add_trace(
        go.Scatter(
            x=shares,
            y=[gap.value for gap in gaps],
            mode="markers",
            marker=dict(
                color=[BLUE if held else "white" for held in holds], size=9, line=dict(color=BLUE, width=2)
            ),
            error_y=dict(
                type="data",
                symmetric=False,
                array=[gap.high - gap.value for gap in gaps],
                arrayminus=[gap.value - gap.low for gap in gaps],
                color=BLUE,
                thickness=1.5,
                width=5,
            ),
            hovertext=[
                f"<b>{share:.0%} masked</b><br>first minus last {gap}<br>"
                f"{'told apart' if held else 'not told apart'}"
                for share, gap, held in zip(shares, gaps, holds, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            cliponaxis=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    ends = [end for gap in gaps for end in (gap.low, gap.value, gap.high)]
    _write_axes(sheet, panel, shares, "difference in damage", ends)
    undefined = sum(math.isnan(gap.value) for gap in gaps)
    if undefined:
        sheet.add_note(f"{undefined} of {len(gaps)} differences undefined and not drawn")
    if undefined < holds.count(False):
        sheet.add_note("hollow: the interval is not above 0, first and last are not told apart")


def _write_axes(sheet: Sheet, panel: Panel, shares: list[float], title: str, ends: list[float]) -> None:
    """Axes with 0 in sight of both, and room for all of ``ends``."""
    low, high = (pick([0.0, *(end for end in ends if math.isfinite(end))]) for pick in (min, max))
    air = 0.06 * ((high - low) or 1.0)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share masked", tickformat=".0%", range=[-0.06 * max(shares), 1.06 * max(shares)], zeroline=False
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(title, range=[low - air, high + air])


def _places(check: MaskingCheck) -> str:
    return check.what if check.what == "tokens" else f"places of {check.what}"


def _subtitle(check: MaskingCheck) -> str:
    """The provenance's line; its method made the ranking, its backend and ablation did the masking."""
    made = check.provenance
    text = replace(made, direction=None, ablation=None, method=None, backend=None).summary()
    if made.direction:
        what, base = name_patch(made)
        text += f" · masked with {what} in the {base} run" + (f" ({made.backend})" if made.backend else "")
    return text
