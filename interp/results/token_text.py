"""Tokens as people read them: white space made visible, control characters named."""

from __future__ import annotations

import unicodedata

_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


def visible_token(token: str) -> str:
    """Show a token's white space and control characters; an empty token is ``∅``.

    >>> visible_token(" Mary"), visible_token("\\n"), visible_token("")
    ('·Mary', '↵', '∅')
    """
    return "".join(_visible_character(c) for c in token) or "∅"


def _visible_character(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    # Cc: control characters; bidirectional overrides would turn the rest of a label around
    if unicodedata.category(character) == "Cc" or "\u202a" <= character <= "\u202e":
        return f"\\x{ord(character):02x}"
    return character
