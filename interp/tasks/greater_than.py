"""Greater-than: "The war lasted from 1732 to 17" -> any two-digit year above 32.

Hanna, Liu and Variengien 2023, "How does GPT-2 compute greater-than?" (arXiv 2305.00586).
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from interp.errors import TokenizationError
from interp.tasks.drawing import draw_pairs, known_words, pick_templates
from interp.tasks.lexicon import CENTURIES, DURATIONS, START_YEARS, TWO_DIGITS
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import fill_template, templates_for
from interp.tasks.tokenize import Encoder

LOWEST = START_YEARS[0]
"""Start year of every corrupted prompt: nearly any year follows it. The paper takes 01; this is the
lowest that occurs as a start in the bundled models' world, so that they have seen it there."""
SLOTS = ("XX", "YY", "XX2")


def make_greater_than(
    encoder: Encoder, n: int, rng: Random, *, split: str = "heldout", template: str | None = None
) -> list[EncodedPair]:
    """Pairs with labels ``XX``, ``YY`` (the start year's two halves), ``XX2`` and ``END``.

    Answers are the two-digit years above the start year, wrong the others, down to 00; years that
    are not a token of their own (GPT-2 has " 1800" as one) are left out, on both sides. The
    corrupted prompt starts in year 02. ``split`` and ``template`` as in IOI; a text of your own has
    slots ``{XX}{YY}`` and ``{XX2}`` and may have ``{NOUN}``.
    """
    templates = pick_templates(
        encoder, "greater_than", templates_for("greater_than"), split=split, template=template, slots=SLOTS
    )
    nouns = known_words(encoder, DURATIONS, kind="nouns", task="greater_than")
    years = _usable_years(encoder)

    def draw() -> PairDraft:
        century = rng.choice(list(years))
        known = years[century]
        start = rng.choice([y for y in START_YEARS if y in known and LOWEST < y < known[-1]])
        pattern = rng.choice(templates)
        fills = {"NOUN": rng.choice(nouns), "XX": century, "YY": start, "XX2": century}
        clean = fill_template(pattern.prompt, fills)
        corrupted = fill_template(pattern.prompt, {**fills, "YY": LOWEST})
        return PairDraft(
            clean.text,
            corrupted.text,
            answers=tuple(year for year in known if year > start),
            wrong=tuple(year for year in known if year <= start),
            spans={slot: clean.spans[slot] for slot in SLOTS},
            corrupted_spans={slot: corrupted.spans[slot] for slot in SLOTS},
            info={"template": pattern.id, "noun": fills["NOUN"], "century": century, "year": start},
        )

    return draw_pairs(encoder, draw, n, "greater_than")


def _usable_years(encoder: Encoder) -> Mapping[str, tuple[str, ...]]:
    """Century -> its two-digit years that are one token behind it."""
    found: dict[str, tuple[str, ...]] = {}
    for century in CENTURIES:
        tokens = encoder.single_tokens(TWO_DIGITS, before=f"from {century}", glue="")
        known = tuple(year for year in TWO_DIGITS if tokens[year] is not None)
        if LOWEST in known and any(year in known[:-1] for year in START_YEARS):
            found[century] = known
    if not found:
        example = encoder.describe(encoder.encode(f"{CENTURIES[-2]}32").ids)
        raise TokenizationError(
            f"task 'greater_than' needs years of two tokens, like 17|32; {encoder.name!r} makes "
            f"{CENTURIES[-2]}32 {example}."
        )
    return found
