"""What each token contributes: bars in reading order, and coloured text."""

from __future__ import annotations

import html
import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.errors import RecordError
from interp.plots.bars import add_bars
from interp.plots.colored_text import color_bar, frame_text, head_line, token_span
from interp.plots.heatmaps import to_array, token_ticks
from interp.plots.scales import MISSING, blend_sign, largest_magnitude
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text, shorten, show_token
from interp.results.token_text import visible_token
from interp.results.tokens import TokenScores

_ABREAST, _WIDEST = 300, 1080
"""Pixels that a prompt's bars share where three stand side by side, and where one stands alone."""
_HEIGHT = 130
_LONGEST_METRIC = 24


def plot_tokens(scores: TokenScores, prompts: int = 12) -> go.Figure:
    """Draw what each token contributes to the metric: a panel a prompt, bars in reading order.

    Blue speaks for the metric and red against it, on one symmetric scale for the first ``prompts``
    prompts that are drawn. Hover gives the token in full, its position and its value. Raises
    :class:`RecordError` for fewer than one prompt.
    """
    shown = _count(scores, prompts)
    values = to_array(scores.values)
    metric, limit = _metric(scores), largest_magnitude([values[:shown]])
    sheet = Sheet()
    for row in range(shown):
        tokens = scores.tokens[row]
        n = max(1, len(tokens))
        panel = add_bars(
            sheet,
            _describe_prompt(scores, row),
            token_ticks(tokens, ""),
            values[row, : len(tokens)].tolist(),
            [
                f"<b>{show_token(token)}</b><br>position {pos} of prompt {row}<br>"
                f"contribution {values[row, pos]:+.4g} ({escape_text(metric)})"
                for pos, token in enumerate(tokens)
            ],
            value_title="contribution",
            horizontal=False,
            pitch=min(22.0, max(_ABREAST / n, min(11.0, _WIDEST / n), 1.0)),
            length=_HEIGHT,
        )
        sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].update(range=[-1.05 * limit, 1.05 * limit], nticks=5)
    sheet.add_note(f"positive (blue) speaks for {metric}; one scale for all prompts")
    if shown < len(scores):
        sheet.add_note(f"the first {shown} of {len(scores)} prompts")
    return sheet.finish(_title(scores), scores.provenance.summary())


def token_html(scores: TokenScores, prompts: int = 12) -> str:
    """Coloured text of the first ``prompts`` prompts, as HTML that needs no script and no style sheet.

    A token's background is white at 0, blue where it speaks for the metric and red where it speaks
    against it, on one scale for all prompts shown, which the legend gives; grey has no value.
    Hovering a token shows its position and value. Everything is escaped, colours of text are set, so
    that it reads the same on a dark page. Raises :class:`RecordError` for fewer than one prompt.
    """
    shown = _count(scores, prompts)
    values = to_array(scores.values)
    limit = largest_magnitude([values[:shown]])
    rows = [_prompt_html(scores, row, values[row], limit) for row in range(shown)]
    some = f" · the first {shown} of {len(scores)} prompts" if shown < len(scores) else ""
    return frame_text(
        _title(scores), scores.provenance.summary() + some, [_legend_html(scores, limit), *rows]
    )


def _prompt_html(scores: TokenScores, row: int, values: NDArray[np.float32], limit: float) -> str:
    spans = [
        _token_html(token, pos, float(values[pos]), limit) for pos, token in enumerate(scores.tokens[row])
    ]
    return f"{head_line(_describe_prompt(scores, row))}\n<div>{''.join(spans)}</div>"


def _token_html(token: str, pos: int, value: float, limit: float) -> str:
    missing = math.isnan(value)
    color = MISSING if missing else blend_sign(value / limit)
    return token_span(
        token, f"position {pos}: {visible_token(token)}  {'no value' if missing else f'{value:+.4g}'}", color
    )


def _legend_html(scores: TokenScores, limit: float) -> str:
    metric = html.escape(_metric(scores))
    grey = "; grey: no value" if _has_holes(scores) else ""
    return (
        f'<div style="font-size:12px">{color_bar(limit)} · contribution to '
        f"{metric}: blue speaks for it, red against it, white is 0{grey}; one scale for all prompts</div>"
    )


def _count(scores: TokenScores, prompts: int) -> int:
    if prompts < 1:
        raise RecordError(f"at least one prompt must be shown; got prompts={prompts}.")
    return min(prompts, len(scores))


def _has_holes(scores: TokenScores) -> bool:
    finite = scores.values.isfinite().sum(1).tolist()
    return any(n < len(tokens) for n, tokens in zip(finite, scores.tokens, strict=True))


def _metric(scores: TokenScores) -> str:
    return scores.provenance.metric or "the metric"


def _title(scores: TokenScores) -> str:
    by = f", by {scores.provenance.method}" if scores.provenance.method else ""
    return f"What each token of the {scores.run} prompts contributes to {_metric(scores)}{by}"


def _describe_prompt(scores: TokenScores, row: int) -> str:
    """Its number, its metric, and what its tokens add up to; not escaped."""
    metric = shorten(scores.provenance.metric or "metric", _LONGEST_METRIC)
    value = float(scores.metric[row])
    said = "undefined" if math.isnan(value) else f"{value:.3g}"
    return f"prompt {row} · {metric} {said} · sum {float(scores.total[row]):.3g}"
