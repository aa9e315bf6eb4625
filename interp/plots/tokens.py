"""Text as plotly must be given it.

Plotly reads text as markup (``<b>``, ``&amp;``, and LaTeX between dollar signs), so a token such as
``<s>`` would vanish from an axis. Everything that comes from a model or a person passes here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from interp.results.token_text import visible_token

LONGEST_TICK = 14
"""Characters of a token on an axis; hover shows it whole."""


def escape_text(text: str) -> str:
    """Make ``text`` appear as it is written.

    >>> escape_text("<s> & $x$")
    '&lt;s&gt; &amp; &#36;x&#36;'
    """
    return html.escape(text, quote=False).replace("$", "&#36;")


def show_token(token: str, limit: int | None = None) -> str:
    """A token for a label: white space visible, cut at ``limit`` characters, escaped.

    >>> show_token(" <b>"), show_token("antidisestablishment", limit=8)
    ('·&lt;b&gt;', 'antidis…')
    """
    return escape_text(shorten(visible_token(token), limit))


def shorten(text: str, limit: int | None) -> str:
    """``text``, cut to ``limit`` characters with an ellipsis; not yet escaped."""
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def token_keys(tokens: Sequence[str], positions: Sequence[int] | None = None) -> tuple[str, ...]:
    """A different key for every position, so that two equal tokens stay apart.

    ``positions`` numbers the tokens; by default 0, 1, 2 ...

    >>> token_keys(["<s>", " a", " a"])
    ('0 &lt;s&gt;', '1 ·a', '2 ·a')
    """
    numbers = range(len(tokens)) if positions is None else positions
    return tuple(f"{i} {show_token(token)}" for i, token in zip(numbers, tokens, strict=True))
