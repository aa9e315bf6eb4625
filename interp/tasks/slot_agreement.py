"""What the slots of one sentence must keep between them: the right answer, number, gender, different words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

from interp.tasks.lexicon import NOUNS, RELATIVE_VERBS, TWO_DIGITS, gender_of
from interp.tasks.slots import ANSWER, PREDICATES, phrases_for

Fills = Mapping[str, str]
"""Slot -> the words in it."""


def fills_agree(kind: str, fills: Fills, rest: str) -> bool:
    """Whether words that may each stand in their slots may stand there together; ``rest`` is the sentence's end."""
    if kind == "agreement" and fills[ANSWER] not in PREDICATES[rest]:
        return False
    return kind not in _CHECKS or _CHECKS[kind](fills)


def _check_ioi(fills: Fills) -> bool:
    first, second, subject, answer = (fills[slot] for slot in ("FIRST", "SECOND", "S2", ANSWER))
    return first != second and {subject, answer} == {first, second}


def _check_greater_than(fills: Fills) -> bool:
    return fills["XX2"] == fills["XX"] and TWO_DIGITS.index(fills[ANSWER]) > TWO_DIGITS.index(fills["YY"])


def _check_pronouns(fills: Fills) -> bool:
    return phrases_for("pronouns", ANSWER)[fills[ANSWER]]["gender"] == {gender_of(fills["NAME"])}


@cache
def _number_of(phrase: str) -> str:
    return next(
        number
        for word in (*NOUNS, *RELATIVE_VERBS)
        for number in ("singular", "plural")
        if word.form(number) == phrase
    )


def _check_agreement(fills: Fills) -> bool:
    verb = phrases_for("agreement", ANSWER)[fills[ANSWER]]["number"]
    subject = _number_of(fills["SUBJECT"])
    if subject not in verb:
        return False
    if "RELATIVE_S" in fills and _number_of(fills["RELATIVE_S"]) != subject:
        return False
    if "ATTRACTOR" not in fills:
        return True
    if "RELATIVE" in fills and _number_of(fills["RELATIVE"]) != _number_of(fills["ATTRACTOR"]):
        return False
    return not any({word.singular, word.plural} >= {fills["SUBJECT"], fills["ATTRACTOR"]} for word in NOUNS)


def _check_colored_objects(fills: Fills) -> bool:
    items = [fills[f"ITEM{number}"] for number in (1, 2, 3)]
    colors = [fills[f"COLOR{number}"] for number in (1, 2, 3)]
    if len(set(items)) < 3 or len(set(colors)) < 3 or fills["ASKED"] not in items:
        return False
    return fills[ANSWER] == colors[items.index(fills["ASKED"])]


def _check_docstring(fills: Fills) -> bool:
    names = [fills["FUNCTION"], *(fills[f"ARG{number}"] for number in (1, 2, 3, 4))]
    words = [phrase for slot, phrase in fills.items() if slot.startswith("WORD")]
    if len(set(names)) < len(names) or len(set(words)) < len(words):
        return False
    return [fills["DOC1"], fills["DOC2"], fills[ANSWER]] == names[1:4]


_CHECKS: Mapping[str, Callable[[Fills], bool]] = MappingProxyType(
    {
        "ioi": _check_ioi,
        "greater_than": _check_greater_than,
        "pronouns": _check_pronouns,
        "agreement": _check_agreement,
        "colored_objects": _check_colored_objects,
        "docstring": _check_docstring,
    }
)
"""What a filled template must keep besides the words of its slots."""
