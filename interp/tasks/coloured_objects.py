"""Coloured objects: "... a red pen, a blue cup and a green box. The color of the cup is" -> "blue".

From BIG-bench's "reasoning about colored objects"; as a circuit task, Merullo, Eickhoff and Pavlick
2024, "Circuit component reuse across tasks" (arXiv 2310.08744).
"""

from __future__ import annotations

from random import Random

from interp.tasks.drawing import draw_pairs, one_token_words, pick_templates
from interp.tasks.lexicon import COLORS, ITEMS
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import fill_template, templates_for
from interp.tasks.tokenize import Encoder

TASK = "coloured_objects"


def make_coloured_objects(
    encoder: Encoder, n: int, rng: Random, *, split: str = "heldout", template: str | None = None
) -> list[EncodedPair]:
    """Pairs with labels ``ITEM``, ``COLOR`` (of the right answer), ``WRONG_ITEM``, ``WRONG_COLOR``,
    ``ASKED`` and ``END``.

    The corrupted prompt asks for another of the three things, so that the wrong answer becomes the
    right one. ``split`` and ``template`` as in IOI; a text of your own has slots ``{COLOR1} {ITEM1}``
    to ``{COLOR3} {ITEM3}`` and ``{ASKED}``.
    """
    slots = [f"{slot}{i}" for i in (1, 2, 3) for slot in ("COLOR", "ITEM")]
    templates = pick_templates(
        encoder,
        TASK,
        templates_for("colored_objects"),
        split=split,
        template=template,
        slots=[*slots, "ASKED"],
    )
    items = one_token_words(encoder, ITEMS, kind="things", needed=3, task=TASK)
    colors = one_token_words(encoder, COLORS, kind="colours", needed=3, task=TASK)

    def draw() -> PairDraft:
        pattern = rng.choice(templates)
        things, shades = rng.sample(items, 3), rng.sample(colors, 3)
        asked, other = rng.sample(range(3), 2)
        fills = {f"ITEM{i + 1}": thing for i, thing in enumerate(things)}
        fills |= {f"COLOR{i + 1}": shade for i, shade in enumerate(shades)}
        clean = fill_template(pattern.prompt, {**fills, "ASKED": things[asked]})
        corrupted = fill_template(pattern.prompt, {**fills, "ASKED": things[other]})
        named = {
            "ITEM": f"ITEM{asked + 1}",
            "COLOR": f"COLOR{asked + 1}",
            "WRONG_ITEM": f"ITEM{other + 1}",
            "WRONG_COLOR": f"COLOR{other + 1}",
            "ASKED": "ASKED",
        }
        return PairDraft(
            clean.text,
            corrupted.text,
            answers=(f" {shades[asked]}",),
            wrong=(f" {shades[other]}",),
            spans={label: clean.spans[slot] for label, slot in named.items()},
            corrupted_spans={label: corrupted.spans[slot] for label, slot in named.items()},
            info={"template": pattern.id, "items": tuple(things), "colors": tuple(shades), "asked": asked},
        )

    return draw_pairs(encoder, draw, n, TASK)
