"""Sentence templates of the tasks, split into those that train the bundled models and those held out.

A template is text with named slots. Slots in capitals (``{IO}``, ``{S1}``, ``{S2}`` ...) are
positions that a task labels; :func:`fill_template` returns where every slot's word stands, in
characters, so that any tokenizer can find its tokens. No template begins with a slot, so a
slot's word always has a leading space. The prompt ends right before the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from interp.errors import TaskError, unknown_name

Split = Literal["train", "heldout"]
Order = Literal["ABBA", "BABA"]


@dataclass(frozen=True)
class Template:
    """One sentence pattern of a task."""

    id: str
    task: str
    prompt: str
    """Text with ``{slot}`` marks, up to and not including the answer."""
    heldout: bool
    """True when no training text of a bundled model uses it."""
    rest: str = "."
    """Text after the answer, in training documents; begins with what follows the answer directly."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Slot names in order of appearance, repeats included."""
        return tuple(re.findall(r"\{(\w+)\}", self.prompt))


@dataclass(frozen=True)
class FilledTemplate:
    """A template's text, and the characters that each slot's word takes."""

    text: str
    spans: Mapping[str, tuple[int, int]]
    """Slot -> (start, end) in ``text``; the leading space is outside the span."""


_SLOT = re.compile(r"\{(\w+)\}")


def fill_template(prompt: str, words: Mapping[str, str]) -> FilledTemplate:
    """Put ``words`` into the slots of ``prompt``.

    Raises :class:`TaskError` when a slot has no word. A slot that appears twice keeps the span of
    its first appearance.

    >>> fill_template("Then {S1} left.", {"S1": "Mary"}).spans["S1"]
    (5, 9)
    """
    pieces: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    done = length = 0
    for match in _SLOT.finditer(prompt):
        slot = match[1]
        if slot not in words:
            raise TaskError(
                f"template {prompt!r} has slot {slot!r}, but words were given for {sorted(words)}."
            )
        before = prompt[done : match.start()]
        start = length + len(before)
        length = start + len(words[slot])
        spans.setdefault(slot, (start, length))
        pieces += (before, words[slot])
        done = match.end()
    pieces.append(prompt[done:])
    return FilledTemplate("".join(pieces), MappingProxyType(spans))


def templates_for(task: str, split: Split | None = None) -> tuple[Template, ...]:
    """Templates of a task; those of one split, or all. Raises :class:`TaskError` for an unknown task."""
    if task not in TEMPLATES:
        raise TaskError(unknown_name("templates of task", task, TEMPLATES))
    return tuple(t for t in TEMPLATES[task] if split is None or t.heldout == (split == "heldout"))


def order_names(io: str, subject: str, order: Order) -> dict[str, str]:
    """Words for an IOI template's name slots: ABBA names the indirect object first, BABA the subject.

    IOI templates have slots ``FIRST``, ``SECOND`` and ``S2``.
    """
    first, second = (io, subject) if order == "ABBA" else (subject, io)
    return {"FIRST": first, "SECOND": second, "S2": subject}


def _make(
    task: str, train: tuple[str, ...], heldout: tuple[str, ...], rest: str = "."
) -> tuple[Template, ...]:
    return tuple(
        Template(f"{task}/{split}-{number}", task, prompt, split == "heldout", rest)
        for split, prompts in (("train", train), ("heldout", heldout))
        for number, prompt in enumerate(prompts)
    )


def _cross(
    task: str, frames: tuple[str, ...], parts: tuple[str, ...], heldout: tuple[tuple[int, int], ...]
) -> tuple[Template, ...]:
    """Every part in the ``...`` of every frame; ``heldout`` lists the (frame, part) that do not train.

    Each frame and each part trains in other combinations, so what is held out is how they combine.
    """
    split: dict[bool, list[str]] = {False: [], True: []}
    for i, frame in enumerate(frames):
        for j, part in enumerate(parts):
            split[(i, j) in heldout].append(frame.replace("...", part).rstrip())
    return _make(task, tuple(split[False]), tuple(split[True]), rest="")


IOI = _make(
    "ioi",
    train=(
        "Then, {FIRST} and {SECOND} went to the {PLACE}. {S2} gave a {OBJECT} to",
        "When {FIRST} and {SECOND} went to the {PLACE}, {S2} gave a {OBJECT} to",
        "After {FIRST} and {SECOND} went to the {PLACE}, {S2} offered a {OBJECT} to",
        "Today, {FIRST} and {SECOND} had fun at the {PLACE}. {S2} handed a {OBJECT} to",
        "While {FIRST} and {SECOND} were working at the {PLACE}, {S2} gave a {OBJECT} to",
        "Then, {FIRST} and {SECOND} were thinking about going to the {PLACE}. "
        "{S2} wanted to give a {OBJECT} to",
        "Then, {FIRST} and {SECOND} had a long argument, and afterwards {S2} said to",
        "The {PLACE} {FIRST} and {SECOND} went to had a {OBJECT}. {S2} gave it to",
        "Friends {FIRST} and {SECOND} found a {OBJECT} at the {PLACE}. {S2} gave it to",
        "When {FIRST} and {SECOND} got a {OBJECT} at the {PLACE}, {S2} decided to give it to",
        "Yesterday, {FIRST} met {SECOND} at the {PLACE}. Later, {S2} sent a {OBJECT} to",
        "At the {PLACE}, {FIRST} sat with {SECOND}. After that, {S2} passed a {OBJECT} to",
        "Because {FIRST} and {SECOND} were at the {PLACE}, {S2} showed a {OBJECT} to",
        "In the morning, {FIRST} and {SECOND} bought a {OBJECT}. At the {PLACE}, {S2} gave the {OBJECT} to",
    ),
    heldout=(
        "After {FIRST} and {SECOND} had fun at the {PLACE}, {S2} gave a {OBJECT} to",
        "Then, {FIRST} and {SECOND} were working at the {PLACE}. {S2} decided to give a {OBJECT} to",
        "Today, {FIRST} and {SECOND} found a {OBJECT} at the {PLACE}. Later, {S2} gave it to",
        "Friends {FIRST} and {SECOND} went to the {PLACE}. {S2} offered a {OBJECT} to",
        "In the morning, {FIRST} sat with {SECOND} at the {PLACE}, and {S2} handed a {OBJECT} to",
    ),
)
"""Indirect object identification (Wang et al. 2022); answer: the name that is not ``S2``."""

GREATER_THAN = _make(
    "greater_than",
    train=(
        "The {NOUN} lasted from the year {XX}{YY} to the year {XX2}",
        "The {NOUN} began in the year {XX}{YY} and ended in the year {XX2}",
        "The {NOUN} went on from {XX}{YY} to {XX2}",
        "Starting in {XX}{YY}, the {NOUN} ended in {XX2}",
        "From the year {XX}{YY}, the {NOUN} lasted to the year {XX2}",
    ),
    heldout=(
        "The {NOUN} lasted from {XX}{YY} to {XX2}",
        "The {NOUN} went on from the year {XX}{YY} to the year {XX2}",
        "Starting in the year {XX}{YY}, the {NOUN} lasted to the year {XX2}",
    ),
)
"""Greater-than (Hanna et al. 2023); answers: every two-digit year above ``YY``. ``XX2`` equals ``XX``."""

PRONOUN = (
    *_cross(
        "pronouns",
        frames=(
            "Then {NAME} ... because",
            "When {NAME} ...,",
            "After {NAME} ...,",
            "Everyone knows that {NAME} ... when",
        ),
        parts=("went to the {PLACE}", "got to the {PLACE}", "bought a {OBJECT}", "found a {OBJECT}"),
        heldout=((0, 2), (1, 3), (2, 0), (3, 1)),
    ),
    Template("pronouns/speech", "pronouns", "At the {PLACE}, {NAME} said that", False, ""),
    Template("pronouns/tag", "pronouns", "So {NAME} is a really great friend, isn't", False, "?"),
)
"""Gendered pronouns (Mathwin et al. 2023); answer: "she" or "he", after the name's gender."""

PRONOUN_ENDINGS: tuple[str, ...] = (
    " was happy.",
    " wanted a {OBJECT}.",
    " went to the {PLACE}.",
    " had a {OBJECT}.",
)
"""How a training sentence goes on after the pronoun, where the template's ``rest`` is empty."""

AGREEMENT = _cross(
    "agreement",
    frames=(
        "The {SUBJECT} ...",
        "Today, the {SUBJECT} ...",
        "At the {PLACE}, the {SUBJECT} ...",
        "I think that the {SUBJECT} ...",
        "Everyone knows that the {SUBJECT} ...",
    ),
    parts=(
        "",
        "near the {ATTRACTOR}",
        "behind the {ATTRACTOR}",
        "with the {ATTRACTOR}",
        "next to the {ATTRACTOR}",
        "that the {ATTRACTOR} {RELATIVE}",
        "who {RELATIVE_S} the {ATTRACTOR}",
    ),
    heldout=((1, 1), (1, 4), (2, 2), (2, 6), (3, 0), (3, 5), (4, 3)),
)
"""Subject-verb agreement across an attractor noun (Linzen et al. 2016); answer: a verb of the
subject's number. ``RELATIVE`` agrees with the attractor, ``RELATIVE_S`` with the subject."""

COLORED_OBJECTS = _make(
    "colored_objects",
    train=(
        "On the table, there is a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "The color of the {ASKED} is",
        "I see a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "What color is the {ASKED}? It is",
        "In the house, I found a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "What color is the {ASKED}? It is",
        "On the floor, I see a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "The color of the {ASKED} is",
        "Today, there is a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. The {ASKED} is",
    ),
    heldout=(
        "In the house, there is a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "The color of the {ASKED} is",
        "On the table, I see a {COLOR1} {ITEM1}, a {COLOR2} {ITEM2} and a {COLOR3} {ITEM3}. "
        "What color is the {ASKED}? It is",
    ),
)
"""Coloured objects (after BIG-bench; Merullo et al. 2024); answer: the colour of ``ASKED``."""

DOCSTRING = _make(
    "docstring",
    train=(
        "def {FUNCTION}(self, {ARG1}, {ARG2}, {ARG3}, {ARG4}):\n"
        '    """{WORD1} {WORD2}\n\n'
        "    :param {DOC1}: {WORD3} {WORD4}\n    :param {DOC2}: {WORD5} {WORD6}\n    :param",
        "def {FUNCTION}({ARG1}, {ARG2}, {ARG3}, {ARG4}):\n"
        '    """{WORD1} {WORD2}\n\n'
        "    :param {DOC1}: {WORD3}\n    :param {DOC2}: {WORD5}\n    :param",
    ),
    heldout=(
        "def {FUNCTION}(self, {ARG1}, {ARG2}, {ARG3}, {ARG4}):\n"
        '    """{WORD1} {WORD2}\n\n'
        "    :param {DOC1}: {WORD3}\n    :param {DOC2}: {WORD5}\n    :param",
    ),
    rest=":",
)
"""Argument completion (Heimersheim and Janiak 2023). ``DOC1``, ``DOC2`` repeat ``ARG1``, ``ARG2``;
answer: ``ARG3``."""

ATTRIBUTES = _make(
    "attributes",
    train=(
        "{OPENER}, the {ADJECTIVE} {AGENT} {VERB} the {OBJECT} {TIME}.",
        "The {AGENT} {BE} {INTENSIFIER} {ADJECTIVE}.",
        "{PEOPLE} {REACT} the {ADJECTIVE} {OBJECT} {TIME}.",
        "{OPENER}, {PEOPLE} {REACT} the {OBJECT} because it {BE} {INTENSIFIER} {ADJECTIVE}.",
        "The {AGENT} {ADVERB} {VERB} the {OBJECT} at the {PLACE}.",
        "It {BE} a {NOUN} for the {AGENT}.",
        "{PEOPLE} {BELIEVE} that the {OBJECT} {BE} a {ADJECTIVE} {NOUN}.",
        "At the {PLACE}, the {AGENT} {NOT} {BASE} the {OBJECT}.",
        "{OPENER}, it {BE} {INTENSIFIER} {ADJECTIVE} that the {AGENT} {VERB} the {OBJECT} {TIME}.",
    ),
    heldout=(
        "{OPENER}, the {AGENT} {ADVERB} {VERB} the {ADJECTIVE} {OBJECT} {TIME}.",
        "{PEOPLE} {REACT} the {AGENT} because the {OBJECT} {BE} {INTENSIFIER} {ADJECTIVE}.",
        "The {AGENT} {NOT} {BASE} the {OBJECT} {TIME}, and {PEOPLE} {REACT} it.",
    ),
    rest="",
)
"""Sentences whose words express sentiment, topic, tense and formality; they have no single answer."""

TEMPLATES: Mapping[str, tuple[Template, ...]] = MappingProxyType(
    {
        "ioi": IOI,
        "greater_than": GREATER_THAN,
        "pronouns": PRONOUN,
        "agreement": AGREEMENT,
        "colored_objects": COLORED_OBJECTS,
        "docstring": DOCSTRING,
        "attributes": ATTRIBUTES,
    }
)
