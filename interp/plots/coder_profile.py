"""A sparse coder as a whole: densities, latents a token, and how well encoder and decoder agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.plots.bars import value_axis
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, GREY
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.coder_profile import CoderProfile

_WIDTH, _HEIGHT = 300, 230
_MOST_POINTS = 20_000


def plot_coder_profile(profile: CoderProfile) -> go.Figure:
    """Draw how often latents fire (powers of ten; dead ones are counted in the title), how many fire on a token,
    and density against the cosine of encoder and decoder where both lie in one space."""
    sheet = Sheet()
    _add_density(sheet, profile)
    _add_l0(sheet, profile)
    if profile.alignment is not None:
        _add_alignment(sheet, profile)
    sheet.add_note(f"{profile.d_sae:,} latents on {profile.n_tokens:,} tokens")
    where = profile.site if profile.site == profile.target_site else f"{profile.site} → {profile.target_site}"
    return sheet.finish(
        f"Latents of a sparse coder ({profile.architecture}) at {where}", profile.provenance.summary()
    )


def _add_histogram(
    sheet: Sheet, panel: Panel, edges: NDArray[Any], counts: NDArray[Any], hovers: list[str]
) -> None:
    sheet.figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            marker=dict(color=BLUE, line=dict(color="white", width=0.5 if len(counts) < 80 else 0)),
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _density_ticks(low: float, high: float) -> dict[str, object]:
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return dict(
        tickvals=list(powers),
        ticktext=["100%" if p == 0 else f"{10.0 ** (p + 2):g}%" if p > -7 else f"1e{p}" for p in powers],
        range=[low, high],
        zeroline=False,
    )


def _log_density(profile: CoderProfile) -> NDArray[Any]:
    """Of the latents that fire."""
    density = to_array(profile.density).astype(np.float64)
    return np.log10(density[density > 0])


def _limits(profile: CoderProfile) -> tuple[float, float]:
    """From below what one firing comes to, to every token."""
    return min(-np.log10(profile.n_tokens) - 0.1, -1.0), 0.05


def _add_density(sheet: Sheet, profile: CoderProfile) -> None:
    n_dead = len(profile.dead)
    panel = sheet.add_panel(
        f"density ({n_dead:,} of {profile.d_sae:,} dead)", _WIDTH, _HEIGHT, left=62, bottom=46
    )
    low, high = _limits(profile)
    counts, edges = np.histogram(_log_density(profile), bins=50, range=(low, high))
    hovers = [
        f"<b>{10**a:.3g} to {10**b:.3g} of the tokens</b><br>{count:,} latents"
        for a, b, count in zip(edges, edges[1:], counts, strict=False)
    ]
    _add_histogram(sheet, panel, edges, counts, hovers)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share of tokens on which a latent fires", **_density_ticks(low, high)
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis("latents", rangemode="tozero")


def _add_l0(sheet: Sheet, profile: CoderProfile) -> None:
    panel = sheet.add_panel(f"L0: mean {profile.l0:.1f}", _WIDTH, _HEIGHT, left=62, bottom=46)
    counts = profile.l0_counts.numpy()
    width = max(1, int(np.ceil(len(counts) / 120)))
    edges = np.arange(0, len(counts) + width, width)
    binned = np.add.reduceat(counts, edges[:-1])
    hovers = [
        f"<b>{a} latents</b><br>{n:,} tokens"
        if width == 1
        else f"<b>{a} to {b - 1} latents</b><br>{n:,} tokens"
        for a, b, n in zip(edges, edges[1:], binned, strict=False)
    ]
    _add_histogram(sheet, panel, edges - 0.5, binned, hovers)
    present = np.flatnonzero(counts)
    spread = present[-1] - present[0]
    air = max(0.05 * spread, 5.0)
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "latents that fire on a token", range=[max(present[0] - air, -0.5), present[-1] + air], zeroline=False
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis("tokens", rangemode="tozero")


def _add_alignment(sheet: Sheet, profile: CoderProfile) -> None:
    assert profile.alignment is not None
    panel = sheet.add_panel("encoder against decoder", _WIDTH, _HEIGHT, left=62, bottom=46)
    alive = np.flatnonzero(to_array(profile.density) > 0)
    if len(alive) > _MOST_POINTS:
        step = int(np.ceil(len(alive) / _MOST_POINTS))
        alive = alive[::step]
        sheet.add_note(f"encoder against decoder: one latent in {step}")
    logs = np.log10(to_array(profile.density)[alive])
    cosines = to_array(profile.alignment)[alive]
    profiled = {p.latent: p.label for p in profile.latents}
    sheet.figure.add_trace(
        go.Scattergl(
            x=logs,
            y=cosines,
            mode="markers",
            marker=dict(size=4, color=[BLUE if i in profiled else GREY for i in alive], opacity=0.6),
            hovertext=[
                f"<b>latent {i}</b>{_said(profiled.get(i))}<br>fires on {10.0**log:.3%} of the tokens<br>cosine {c:.3f}"
                for i, log, c in zip(alive.tolist(), logs.tolist(), cosines.tolist(), strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    if 0 < len(profiled) < profile.d_sae:
        sheet.add_note("blue points: latents with a profile")
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share of tokens on which it fires", **_density_ticks(*_limits(profile))
    )
    low = min(0.0, float(cosines.min(initial=0.0)))
    sheet.figure.layout[f"yaxis{number}"] = value_axis("cosine", range=[1.05 * low - 0.02, 1.05])


def _said(label: str | None) -> str:
    return "" if label is None else f" {escape_text(label)}"
