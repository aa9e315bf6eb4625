"""Text that plotly shows as it was written."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.plots.tokens import escape_text, shorten, show_token, token_keys
from interp.results.token_text import visible_token


@given(st.text())
def test_escaped_text_reads_back_as_it_was(text):
    escaped = escape_text(text)
    assert html.unescape(escaped) == html.unescape(html.unescape(html.escape(text, quote=False)))
    assert not set("<>$") & set(escaped)


@given(st.text(alphabet="<>&$abs /;#36lt"), st.integers(2, 6))
def test_tokens_are_cut_before_they_are_escaped(token, limit):
    shown = html.unescape(show_token(token, limit))
    assert len(shown) <= limit
    assert shown == shorten(visible_token(token), limit)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("<s>", "&lt;s&gt;"),
        (" <b>x</b>", "·&lt;b&gt;x&lt;/b&gt;"),
        ("\n", "↵"),
        (" &amp;", "·&amp;amp;"),
        ("$", "&#36;"),
    ],
)
def test_examples(token, shown):
    assert show_token(token) == shown


@given(st.lists(st.text(max_size=3)))
def test_keys_are_unique(tokens):
    keys = token_keys(tokens)
    assert len(set(keys)) == len(tokens)


def test_keys_can_be_numbered():
    assert token_keys([" a", " a"], [4, 9]) == ("4 ·a", "9 ·a")
