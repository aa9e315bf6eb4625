"""Argument completion in a Python docstring: after ":param" comes the definition's next argument.

Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only
transformer" (alignmentforum.org/posts/u6KXXmKFbXfWzoAXn).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from interp.errors import TaskError, unknown_name
from interp.tasks.drawing import draw_pairs, known_words, one_token_words, pick_templates
from interp.tasks.lexicon import ARGUMENTS, ITEMS, OBJECTS, PLACES
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import fill_template, templates_for
from interp.tasks.tokenize import Encoder

CORRUPTIONS = ("swap", "random_def", "random_doc")
DEFINED = ("ARG1", "ARG2", "ARG3", "ARG4")
DOCUMENTED = ("DOC1", "DOC2")


def make_docstring(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    split: str = "heldout",
    template: str | None = None,
    corrupted: str = "swap",
    arguments: Sequence[str] = ARGUMENTS,
) -> list[EncodedPair]:
    """Pairs with labels ``ARG1`` to ``ARG4`` (in the definition), ``DOC1``, ``DOC2`` and ``END``.

    The answer is the third argument. ``corrupted``: ``"swap"`` exchanges the third and the fourth in
    the definition, so that the wrong answer (the fourth) becomes the right one; ``"random_def"`` puts
    unrelated arguments into the definition, the third of which is the wrong answer; ``"random_doc"``
    puts unrelated names into the docstring's first two lines, the wrong answer being the fourth
    argument (the last two as in the source). ``arguments``: names to draw from. ``split`` and
    ``template`` as in IOI; a text of your own has all these slots and may have ``{FUNCTION}`` and
    ``{WORD1}`` to ``{WORD6}``.
    """
    if corrupted not in CORRUPTIONS:
        raise TaskError(unknown_name("corrupted prompt of task 'docstring'", str(corrupted), CORRUPTIONS))
    templates = pick_templates(
        encoder,
        "docstring",
        templates_for("docstring"),
        split=split,
        template=template,
        slots=(*DEFINED, *DOCUMENTED),
    )
    needed = {"swap": 5, "random_def": 9, "random_doc": 7}[corrupted]
    names = one_token_words(
        encoder, arguments, kind="arguments", needed=needed, task="docstring", option="arguments"
    )
    words = known_words(encoder, (*OBJECTS, *PLACES, *ITEMS), kind="words", task="docstring")

    def draw() -> PairDraft:
        pattern = rng.choice(templates)
        function, *drawn = rng.sample(names, needed)
        arguments, spare = drawn[:4], drawn[4:]
        fills = {"FUNCTION": function} | {f"WORD{i}": rng.choice(words) for i in range(1, 7)}
        fills |= dict(zip(DEFINED, arguments, strict=True)) | dict(zip(DOCUMENTED, arguments, strict=False))
        if corrupted == "swap":
            others, wrong = {"ARG3": arguments[3], "ARG4": arguments[2]}, arguments[3]
        elif corrupted == "random_def":
            others, wrong = dict(zip(DEFINED, spare, strict=True)), spare[2]
        else:
            others, wrong = dict(zip(DOCUMENTED, spare, strict=True)), arguments[3]
        clean = fill_template(pattern.prompt, fills)
        changed = fill_template(pattern.prompt, {**fills, **others})
        labels = (*DEFINED, *DOCUMENTED)
        return PairDraft(
            clean.text,
            changed.text,
            answers=(f" {arguments[2]}",),
            wrong=(f" {wrong}",),
            spans={slot: clean.spans[slot] for slot in labels},
            corrupted_spans={slot: changed.spans[slot] for slot in labels},
            info={
                "template": pattern.id,
                "function": function,
                "arguments": tuple(arguments),
                "corrupted": dict(others),
            },
        )

    return draw_pairs(encoder, draw, n, "docstring")
