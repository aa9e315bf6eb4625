"""Where a steering acted: coloured text, and bars in reading order."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from interp.errors import RecordError
from interp.plots.bars import add_bars
from interp.plots.colored_text import SOFT, color_bar, frame_text, head_line, token_span
from interp.plots.heatmaps import to_array, token_ticks
from interp.plots.scales import MISSING, blend_sign, largest_magnitude
from interp.plots.sheet import INK, Panel, Sheet
from interp.plots.tokens import shorten, show_token
from interp.results.steered_text import SteeredText
from interp.results.token_text import visible_token

_ABREAST, _WIDEST, _HEIGHT = 300, 1080, 110
"""Pixels that a row's bars share where three stand side by side, where one stands alone, and their height."""
_LONGEST = 44
_END = f'<span style="border-left:2px solid {INK};margin:0 5px" title="end of the prompt"></span>'
_WRITTEN = ";font-weight:600"


def plot_steered_text(text: SteeredText, rows: int = 12) -> go.Figure:
    """Draw the strength at every token: a panel a row, bars in reading order, a line where the prompt ends.

    One symmetric scale for the first ``rows`` rows, which are drawn. Hover gives the token in full and its
    position. Raises :class:`RecordError` for fewer than one row.
    """
    shown = _count(text, rows)
    strength = to_array(text.strength)
    limit = largest_magnitude([strength[:shown]])
    sheet = Sheet()
    for row in range(shown):
        tokens = text.tokens[row]
        panel = add_bars(
            sheet,
            _describe_row(text, row),
            token_ticks(tokens, ""),
            strength[row, : len(tokens)].tolist(),
            [
                f"<b>{show_token(token)}</b><br>{_say(text, row, pos, float(strength[row, pos]))}"
                for pos, token in enumerate(tokens)
            ],
            value_title="strength",
            horizontal=False,
            pitch=min(22.0, max(_ABREAST / len(tokens), min(11.0, _WIDEST / len(tokens)), 1.0)),
            length=_HEIGHT,
        )
        sheet.figure.layout[f"yaxis{panel.xaxis[1:]}"].update(range=[-1.05 * limit, 1.05 * limit], nticks=5)
        _mark_end(sheet, panel, int(text.n_prompt[row]), len(tokens))
    sheet.add_note("line: end of the prompt")
    if shown < len(text):
        sheet.add_note(f"the first {shown} of {len(text)} rows")
    return sheet.finish(_TITLE, text.provenance.summary())


_TITLE = "Where the steering acted, and how strongly"


def steered_text_html(text: SteeredText, rows: int = 12) -> str:
    """Coloured text of the first ``rows`` rows, as HTML that needs no script and no style sheet.

    A token's background is white where nothing acted, blue at a positive strength and red at a negative one, on one
    scale for all rows shown; grey was not read. What follows the prompt is bold and stands behind a bar.
    Hovering shows position and strength. Everything is escaped. Raises :class:`RecordError` for fewer than one row.
    """
    shown = _count(text, rows)
    strength = to_array(text.strength)
    limit = largest_magnitude([strength[:shown]])
    some = f" · the first {shown} of {len(text)} rows" if shown < len(text) else ""
    parts = [_legend_html(text, limit)]
    for row in range(shown):
        spans = [
            (_END if pos == int(text.n_prompt[row]) else "")
            + _token_html(text, row, pos, float(strength[row, pos]), limit)
            for pos in range(len(text.tokens[row]))
        ]
        parts.append(f"{head_line(_describe_row(text, row))}\n<div>{''.join(spans)}</div>")
    return frame_text(_TITLE, text.provenance.summary() + some, parts)


def _token_html(text: SteeredText, row: int, pos: int, strength: float, limit: float) -> str:
    token = text.tokens[row][pos]
    color = MISSING if math.isnan(strength) else blend_sign(strength / limit)
    says = f"{visible_token(token)}  {_say(text, row, pos, strength)}"
    return token_span(token, says, color, _WRITTEN if pos >= int(text.n_prompt[row]) else "")


def _say(text: SteeredText, row: int, pos: int, strength: float) -> str:
    part = "generated" if pos >= int(text.n_prompt[row]) else "prompt"
    acted = "not read" if math.isnan(strength) else f"strength {strength:+.4g}" if strength else "not steered"
    return f"position {pos} of row {row}, {part}: {acted}"


def _legend_html(text: SteeredText, limit: float) -> str:
    grey = any(
        bool(text.strength[row, : len(tokens)].isnan().any()) for row, tokens in enumerate(text.tokens)
    )
    return (
        f'<div style="font-size:12px">{color_bar(limit)} · strength; white: not steered'
        f"{'; grey: not read by the model' if grey else ''}. Bold behind the bar: generated.</div>"
    )


def _count(text: SteeredText, rows: int) -> int:
    if rows < 1:
        raise RecordError(f"at least one row must be shown; got rows={rows}.")
    return min(rows, len(text))


def _describe_row(text: SteeredText, row: int) -> str:
    """What was asked for, and of which steering; not escaped."""
    if not text.steering[row]:
        return f"row {row} · not steered"
    asked = f"{float(text.asked[row]):+.3g}"
    what = f"dose {asked} nats" if text.unit == "dose" else f"strength {asked}"
    return f"row {row} · {what} · {shorten(text.steering[row], _LONGEST)}"


def _mark_end(sheet: Sheet, panel: Panel, n_prompt: int, n: int) -> None:
    if n_prompt < n:
        sheet.figure.add_shape(
            type="line",
            x0=n_prompt - 0.5,
            x1=n_prompt - 0.5,
            y0=0,
            y1=1,
            xref=panel.xaxis,
            yref=f"{panel.yaxis} domain",
            line=dict(color=SOFT, width=1.5, dash="dot"),
        )
