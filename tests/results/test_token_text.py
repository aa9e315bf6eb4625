"""Tokens as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.results.token_text import visible_token


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Mary", "·Mary"),
        ("\n", "↵"),
        ("\t ", "⇥·"),
        ("\r", "␍"),
        ("", "∅"),
        ("\x00", "\\x00"),
        ("\u202e", "\\x202e"),
        ("\u00a0", "⍽"),
        ("<s>", "<s>"),
        ("👩‍💻", "👩‍💻"),
    ],
)
def test_examples(token, shown):
    assert visible_token(token) == shown


@given(st.text())
def test_nothing_invisible_is_left_and_showing_twice_changes_nothing(token):
    shown = visible_token(token)
    assert shown
    assert not set(shown) & set(" \n\t\r\u00a0\x00\x7f")
    assert visible_token(shown) == shown
