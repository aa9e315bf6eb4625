"""Neurons by the tokens that their value vectors promote."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.bars import add_bars
from interp.plots.heatmaps import name_ticks
from interp.plots.sheet import TICK_SIZE, Panel, Sheet, text_width
from interp.plots.tokens import escape_text, shorten, show_token
from interp.results.token_text import visible_token
from interp.results.value_vectors import ValueVectors

_MOST = 30
_TOKENS = 6
_WORD = 14
_PITCH = 20


def plot_value_vectors(found: ValueVectors) -> go.Figure:
    """Draw the score of each neuron, the best at the top, beside the tokens that it promotes most.

    At most 30 neurons are shown.
    """
    sheet = Sheet()
    n = min(len(found.names), _MOST)
    hovers = [
        f"<b>{name}</b><br>score {score:.2f} sd, length {norm:.3g}<br>"
        + "<br>".join(f"{show_token(token, 40)} {value:.2f}" for token, value in zip(tokens, values, strict=True))
        for name, score, norm, tokens, values in zip(
            found.names[:n], found.score.tolist(), found.norm.tolist(), found.tokens, found.token_scores.tolist(),
            strict=False,
        )
    ]  # fmt: skip
    bars = add_bars(
        sheet,
        "score for the target tokens",
        name_ticks(found.names[:n], ""),
        found.score[:n].tolist(),
        hovers,
        value_title="standard deviations",
        horizontal=True,
        pitch=_PITCH,
        length=240,
        top_down=True,
    )
    words = [
        "  ".join(shorten(visible_token(token), _WORD) for token in row[:_TOKENS]) for row in found.tokens[:n]
    ]
    _add_texts(sheet, bars, "promoted most", words, hovers)
    if len(found.names) > n:
        sheet.add_note(f"best {n} of {len(found.names)} neurons")
    sheet.add_note(f"target: {_listed(found.target)}")
    if found.against:
        sheet.add_note(f"against: {_listed(found.against)}")
    return sheet.finish("Value vectors of MLP neurons", found.provenance.summary())


def _add_texts(sheet: Sheet, beside: Panel, title: str, texts: list[str], hovers: list[str]) -> None:
    """Lines of text, level with the bars of a panel, the first at the top."""
    width = max(text_width(text, TICK_SIZE) for text in texts)
    panel = sheet.add_panel(
        title, max(width, 120), beside.height, left=18, top=beside.top, bottom=beside.bottom
    )
    sheet.figure.add_trace(
        go.Scatter(
            x=[0.0] * len(texts),
            y=list(range(len(texts))),
            mode="text",
            text=[escape_text(text) for text in texts],
            textposition="middle right",
            textfont=dict(size=TICK_SIZE),
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = dict(range=[0, 1], visible=False)
    sheet.figure.layout[f"yaxis{number}"] = dict(range=[len(texts) - 0.5, -0.5], visible=False)


def _listed(tokens: tuple[str, ...]) -> str:
    shown = ", ".join(shorten(visible_token(token), _WORD) for token in tokens[:6])
    return shown + (f" and {len(tokens) - 6} more" if len(tokens) > 6 else "")
