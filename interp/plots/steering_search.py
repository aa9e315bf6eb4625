"""Where to steer: maps of scores by site and position, and what the choices of searches cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.heatmaps import Ticks, add_heatmap, fit_cell, name_ticks, to_array
from interp.plots.scales import BLUE, GREY, ColorScale, sequential_scale, signed_scale
from interp.plots.sheet import CHARACTER, TICK_SIZE, Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.phrases import capitalize
from interp.results.steering_search import ANY_CHOICE, SearchComparison, SteeringSearch

_LONGEST = 22
_BARS, _PITCH = 360, 28


def plot_steering_search(found: SteeringSearch) -> go.Figure:
    """Draw scores by site and the position that directions were read at, a map a dose.

    Scores in brackets are of candidates that were ruled out; grey cells have none. A search that knows no doses
    has one map.
    """
    sheet = Sheet()
    scores, passed = to_array(found.scores), found.passed.cpu().numpy()
    knows_doses = bool(np.isfinite(to_array(found.strengths)).any())
    shown = range(len(found.doses) if knows_doses else 1)
    axis = sheet.add_color_axis(_scale([scores], "score"))
    for number in shown:
        title = "every dose" if not knows_doses else f"{found.doses[number]:g} nats"
        strengths = to_array(found.strengths[..., number])
        details = np.where(
            np.isfinite(strengths), [[f", strength {s:.3g}" for s in row] for row in strengths], ""
        )
        _add_map(sheet, title, found.sites, found.positions, scores[..., number], passed, axis, details)
    ruled = int((~passed).sum())
    if ruled:
        sheet.add_note(f"{ruled} of {passed.size} candidates ruled out, in brackets")
    if not np.isfinite(scores).all():
        sheet.add_note("grey: no strength has that dose")
    sheet.add_note(f"score: {found.score}")
    acting = {None: "every token", "read": "where they were read"}.get(found.acts_at, found.acts_at)
    sheet.add_note(f"directions act at {acting}")
    return sheet.finish(f"Where to steer: a search by {found.method}", found.provenance.summary())


def plot_search_comparison(found: SearchComparison) -> go.Figure:
    """Draw measured effects beside the scores of every search, and the regret of what each chooses.

    Every map has colours of its own, for scores have different units.
    """
    sheet = Sheet()
    judged = to_array(found.judged.double().mean(-1))
    sizes = (found.sites, found.positions)
    axis = sheet.add_color_axis(_scale([judged], "effect"))
    _add_map(sheet, "measured effect", *sizes, judged, np.ones(judged.shape, dtype=bool), axis)
    for number, method in enumerate(found.methods):
        scores = to_array(found.scores[number])
        axis = sheet.add_color_axis(_scale([scores], "score"))
        _add_map(sheet, method, *sizes, scores, found.passed[number].cpu().numpy(), axis)
    sheet.start_band()
    _add_regrets(sheet, found)
    if not bool(found.passed.all()):
        sheet.add_note("in brackets: ruled out")
    sheet.add_note(f"effects at {found.dose:g} nats of KL on neutral text, on prompts that no search saw")
    sheet.add_note(f"lines: {found.confidence:.0%} bootstrap intervals over prompts")
    return sheet.finish("Searches for where to steer, against brute force", found.provenance.summary())


def _scale(arrays: Sequence[np.ndarray], title: str) -> ColorScale:
    negative = any(bool((a[np.isfinite(a)] < 0).any()) for a in arrays)
    return (signed_scale if negative else sequential_scale)(arrays, title)


def _add_map(
    sheet: Sheet,
    title: str,
    sites: Sequence[str],
    positions: Sequence[str],
    scores: np.ndarray,
    passed: np.ndarray,
    axis: str,
    details: np.ndarray | None = None,
) -> None:
    x, y = name_ticks(positions, "read at"), name_ticks([shorten(s, _LONGEST) for s in sites], "")
    cell = (fit_cell(len(x), 240, 18, 62), fit_cell(len(y), 320, 14, 30))
    readable = cell[0] >= 44 and cell[1] >= 16
    extra = np.full(scores.shape, "") if details is None else details
    names = [
        [
            escape_text(f"{site} read at {position}{'' if passed[i, j] else ', ruled out'}{extra[i, j]}")
            for j, position in enumerate(positions)
        ]
        for i, site in enumerate(sites)
    ]
    texts = [[_cell(v, ok) for v, ok in zip(*rows, strict=True)] for rows in zip(scores, passed, strict=True)]
    add_heatmap(
        sheet,
        title,
        scores,
        x,
        y,
        color_axis=axis,
        cell=cell,
        names=names,
        details=None,
        hover="<b>%{hovertext}</b><br>%{z:.4g}<extra></extra>",
        cell_text=texts if readable else None,
    )


def _cell(value: float, passed: bool) -> str:
    if not np.isfinite(value):
        return ""
    text = f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:z.2f}"
    return text if passed else f"({text})"


def _add_regrets(sheet: Sheet, found: SearchComparison) -> None:
    names = [*found.methods, ANY_CHOICE]
    regrets = [*found.regret, found.any_regret]
    ticks: Ticks = name_ticks(names, "")
    n = len(names)
    left = round(ticks.longest * TICK_SIZE * CHARACTER + 18)
    panel = sheet.add_panel(
        "regret: 1 - effect of the choice / best effect", _BARS, n * _PITCH, left=left, bottom=44
    )
    value, low, high = (np.array([getattr(one, end) for one in regrets]) for end in ("value", "low", "high"))
    hovers = []
    for method, one in zip(names, regrets, strict=True):
        choice = found.chosen(method) if method in found.methods else None
        at = (
            f"{choice[0]} read at {choice[1]}"
            if choice
            else "a random one"
            if method == ANY_CHOICE
            else "none passed"
        )
        hovers.append(f"<b>{escape_text(method)}</b><br>{escape_text(at)}<br>{escape_text(str(one))}")
    sheet.figure.add_trace(
        go.Bar(
            x=np.nan_to_num(value).tolist(),
            y=list(range(n)),
            orientation="h",
            width=0.7,
            marker=dict(color=[BLUE] * (n - 1) + [GREY], line_width=0),
            error_x=dict(
                type="data",
                symmetric=False,
                array=np.nan_to_num(high - value).tolist(),
                arrayminus=np.nan_to_num(value - low).tolist(),
                color="rgb(40,40,40)",
                thickness=1.2,
                width=4,
            ),
            text=["none passed" if not np.isfinite(v) else "" for v in value],
            textposition="outside",
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    ends = np.concatenate([value, low, high, [0.0, 1.0]])
    ends = ends[np.isfinite(ends)]
    air = 0.03 * (ends.max() - ends.min())
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        capitalize("regret"), range=[min(0.0, float(ends.min() - air)), float(ends.max() + air)]
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "",
        range=[n - 0.5, -0.5],
        tickvals=list(range(n)),
        ticktext=list(ticks.texts),
        zeroline=False,
        showgrid=False,
    )
