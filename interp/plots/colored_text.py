"""Text whose tokens have a background, as HTML that needs no script and no style sheet."""

from __future__ import annotations

import html
from collections.abc import Iterable

from interp.plots.scales import WHITE, blend_sign, readable_ink
from interp.plots.sheet import FONT, INK
from interp.results.token_text import visible_token

SOFT = "rgb(95,95,95)"
_TOKEN = "display:inline-block;max-width:100%;padding:0 2px;border-radius:2px;overflow-wrap:anywhere"


def frame_text(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """Title and subtitle (escaped here) over ``parts`` of HTML; reads the same on a dark page."""
    body = "\n".join(parts)
    # both classes keep a notebook from setting $x$ as mathematics
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="background:white;color:{INK};'
        f'font:14px/1.7 {FONT};padding:12px 16px;border-radius:4px;text-align:left">\n'
        f'<div style="font-weight:600">{html.escape(title)}</div>\n'
        f'<div style="color:{SOFT};font-size:12px">{html.escape(subtitle)}</div>\n'
        f"{body}\n</div>"
    )


def head_line(text: str) -> str:
    """A small line over a row of tokens; escaped here."""
    return f'<div style="color:{SOFT};font-size:12px;margin-top:8px">{html.escape(text)}</div>'


def token_span(token: str, says: str, color: str, style: str = "") -> str:
    """One token on a background, with what hovering it says (escaped here); a newline ends the line."""
    look = f"{_TOKEN};background:{color};color:{readable_ink(color)}{style}"
    line_break = "<br>" if "\n" in token else ""
    return f'<span style="{look}" title="{html.escape(says)}">{html.escape(visible_token(token))}</span>{line_break}'


def color_bar(limit: float) -> str:
    """From minus to plus ``limit``, red over white to blue."""
    bar = (
        f"display:inline-block;vertical-align:middle;width:160px;height:12px;margin:0 6px;border:1px solid "
        f"{SOFT};background:linear-gradient(to right,{blend_sign(-1)},{WHITE},{blend_sign(1)})"
    )
    return f'−{limit:.3g}<span style="{bar}"></span>+{limit:.3g}'
