"""One latent of a sparse coder: its activations, what it writes, and its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go

from interp.plots.bars import add_bars, add_ranked_bars, value_axis
from interp.plots.heatmaps import name_ticks, to_array
from interp.plots.scales import BLUE, GREY, largest_magnitude
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text, show_token
from interp.results.feature import TOP, LatentNeighbours, LatentProfile
from interp.results.token_text import visible_token

_WIDTH, _HEIGHT = 520, 210


def plot_latent(profile: LatentProfile) -> go.Figure:
    """Draw one latent: a histogram of its activations with the intervals that examples come from, the tokens whose
    logits it raises and lowers most, and the latents nearest by direction and by firing on the same tokens."""
    sheet = Sheet()
    _add_activations(sheet, profile)
    if profile.head_shares is not None:
        _add_heads(sheet, profile)
    sheet.start_band()
    if profile.logits is not None:
        written = profile.logits
        _add_tokens(sheet, "logits raised", written.raised_tokens, to_array(written.raised).tolist(), profile)
        _add_tokens(
            sheet, "logits lowered", written.lowered_tokens, to_array(written.lowered).tolist(), profile
        )
    sheet.start_band()
    _add_near(sheet, "nearest decoder directions", profile.neighbours, "cosine")
    _add_near(sheet, "fire on the same tokens", profile.coactive, "correlation (phi)")
    label = "" if profile.label is None else f" “{profile.label}”"
    fires = "never fired on" if profile.is_dead else f"fires on {profile.density:.3%} of"
    sheet.add_note(f"{fires} {profile.n_tokens:,} tokens")
    if not math.isnan(profile.alignment):
        sheet.add_note(f"cosine of encoder and decoder {profile.alignment:.2f}")
    if profile.logits is not None:
        sheet.add_note("logits: decoder direction through the unembedding, the final norm's scale left out")
    for name, value in profile.f1.items():
        sheet.add_note(f"F1 {name} {value:.2f}")
    return sheet.finish(f"Latent {profile.latent} at {profile.site}{label}", profile.provenance.summary())


def _add_activations(sheet: Sheet, profile: LatentProfile) -> None:
    panel = sheet.add_panel("activations where it fires", _WIDTH, _HEIGHT, left=66, bottom=46)
    edges, counts = profile.edges.tolist(), profile.counts.tolist()
    sheet.figure.add_trace(
        go.Bar(
            x=[(low + high) / 2 for low, high in pairwise(edges)],
            y=counts,
            width=edges[1] - edges[0],
            marker=dict(color=BLUE, line=dict(color="white", width=1)),
            hovertext=[
                f"<b>{low:.3g} to {high:.3g}</b><br>{count:,} of {sum(counts):,} firings"
                for (low, high), count in zip(pairwise(edges), counts, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    marks = [group for group in profile.examples if group.name != TOP and group.low > 0]
    last = -math.inf
    for group in sorted(marks, key=lambda group: group.low):
        where = dict(xref=panel.xaxis, yref=f"{panel.yaxis} domain")
        sheet.figure.add_shape(
            type="line",
            x0=group.low,
            x1=group.low,
            y0=0,
            y1=1,
            line=dict(color=GREY, width=1, dash="dot"),
            **where,
        )
        share = group.name.split("–")[0]
        if group.low - last > 0.055 * edges[-1]:
            last = group.low
            sheet.figure.add_annotation(
                x=group.low,
                y=1,
                text=escape_text(f"{share} %"),
                showarrow=False,
                xanchor="left",
                yanchor="top",
                xshift=-2,
                font=dict(size=10, color=GREY),
                **where,
            )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "activation", range=[0, edges[-1] * 1.01], zeroline=False
    )
    top = max(counts, default=0)
    sheet.figure.layout[f"yaxis{number}"] = value_axis("firings", range=[0, 1.14 * top if top else 1])
    panel.title = f"{panel.title}{'; dotted: quantiles' if marks else ''}"


def _add_heads(sheet: Sheet, profile: LatentProfile) -> None:
    assert profile.head_shares is not None
    shares = to_array(profile.head_shares).tolist()
    panel = add_bars(
        sheet,
        "decoder direction by head",
        name_ticks([f"H{head}" for head in range(len(shares))], "head"),
        shares,
        [f"<b>head {head}</b><br>{share:.1%} of the squared norm" for head, share in enumerate(shares)],
        value_title="share",
        horizontal=False,
        pitch=min(40.0, 420 / len(shares)),
        length=_HEIGHT,
    )
    sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].range = [0, 1.05 * max(shares)]


def _add_tokens(
    sheet: Sheet, title: str, tokens: Sequence[str], values: Sequence[float], profile: LatentProfile
) -> None:
    assert profile.logits is not None
    panel = add_ranked_bars(
        sheet,
        title,
        [visible_token(token) for token in tokens],
        values,
        [
            f"<b>{show_token(t)}</b><br>{v:+.3f} a unit of activation"
            for t, v in zip(tokens, values, strict=True)
        ],
        "logit a unit of activation",
    )
    both = [to_array(profile.logits.raised), to_array(profile.logits.lowered)]
    limit = 1.05 * largest_magnitude(both)
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"].range = (
        [0, limit] if title.endswith("raised") else [-limit, 0]
    )


def _add_near(sheet: Sheet, title: str, near: LatentNeighbours, measure: str) -> None:
    values = to_array(near.values).tolist()
    if not values:
        panel = sheet.add_panel(f"{title}: none", 300, 40)
        for axis in ("xaxis", "yaxis"):
            sheet.figure.layout[f"{axis}{panel.xaxis[1:]}"] = dict(visible=False)
        sheet.figure.add_trace(go.Scatter(x=[], y=[], showlegend=False, xaxis=panel.xaxis, yaxis=panel.yaxis))
        return
    names = [str(latent) for latent in near.latents.tolist()]
    hovers = [
        f"<b>latent {name}</b><br>{measure} {value:.3f}" for name, value in zip(names, values, strict=True)
    ]
    panel = add_ranked_bars(sheet, title, names, values, hovers, measure)
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"].range = [min(0.0, *values), 1.0]
