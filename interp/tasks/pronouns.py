"""Gendered pronouns: "After Mary went to the park," -> "she", and She / He after a girl or a boy.

Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2
small" (Apart Research).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from interp.errors import TokenizationError
from interp.tasks.drawing import checked_words, draw_pairs, known_words, list_some, pick_templates
from interp.tasks.lexicon import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES, PRONOUNS
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import Template, fill_template, templates_for
from interp.tasks.tokenize import Encoder

CHILD = {"female": "girl", "male": "boy"}

STORY_TEMPLATES = tuple(
    Template(f"story_pronouns/{number}", "story_pronouns", prompt, heldout=True)
    for number, prompt in enumerate(
        (
            "Once upon a time, there was a little {KIND} named {NAME}.",
            "One day, a little {KIND} named {NAME} went to the {PLACE}.",
            "Once there was a {KIND} named {NAME}. One day, {NAME} was in the {PLACE}.",
            "Once upon a time, in a big {PLACE}, there was a little {KIND} named {NAME}.",
        )
    )
)
STORY_GIRLS = tuple("Lily Mia Sue Lucy Anna Amy Jane Mary Emma Sara".split())
STORY_BOYS = tuple("Tim Tom Ben Max Sam Jack Bob Leo Jim Dan".split())
STORY_PLACES = tuple("park house garden school forest farm zoo shop".split())


def make_pronouns(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    split: str = "heldout",
    template: str | None = None,
    female: Sequence[str] = FEMALE_NAMES,
    male: Sequence[str] = MALE_NAMES,
) -> list[EncodedPair]:
    """Pairs with labels ``NAME`` (its last token), ``END`` and ``KIND`` where the template has it.

    The corrupted prompt has a name of the other gender. The answer is "she" or "he", and "She" or
    "He" at the start of a sentence. ``female`` and ``male`` names may be of several tokens; those
    of one pair are equally long. ``split`` and ``template`` as in IOI; a text of your own has the
    slot ``{NAME}`` and may have ``{KIND}`` (girl / boy), ``{PLACE}`` and ``{OBJECT}``.
    """
    templates = pick_templates(
        encoder, "pronouns", templates_for("pronouns"), split=split, template=template, slots=("NAME",)
    )
    return _make(encoder, n, rng, "pronouns", templates, female, male, PLACES)


def make_story_pronouns(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    template: str | None = None,
    female: Sequence[str] = STORY_GIRLS,
    male: Sequence[str] = STORY_BOYS,
) -> list[EncodedPair]:
    """The same in the words of children's stories: "... a little girl named Lily." -> "She".

    Girl or boy and the name change together. Labels ``KIND``, ``NAME``, ``END``, and ``PLACE`` where
    every prompt has one. For models of the TinyStories kind (Eldan and Li 2023, arXiv 2305.07759).
    """
    templates = pick_templates(
        encoder, "story_pronouns", STORY_TEMPLATES, split="all", template=template, slots=("NAME",)
    )
    return _make(encoder, n, rng, "story_pronouns", templates, female, male, STORY_PLACES)


def _make(
    encoder: Encoder,
    n: int,
    rng: Random,
    task: str,
    templates: Sequence[Template],
    female: Sequence[str],
    male: Sequence[str],
    places: Sequence[str],
) -> list[EncodedPair]:
    names = {
        "female": _known_names(encoder, female, "female names", task),
        "male": _known_names(encoder, male, "male names", task),
    }
    places = known_words(encoder, places, kind="places", task=task)
    objects = known_words(encoder, OBJECTS, kind="objects", task=task)

    def draw() -> PairDraft:
        gender, other = rng.sample(("female", "male"), 2)
        pattern = rng.choice(templates)
        fills = {"PLACE": rng.choice(places), "OBJECT": rng.choice(objects)}
        sides = [
            fill_template(pattern.prompt, {**fills, "NAME": rng.choice(names[g]), "KIND": CHILD[g]})
            for g in (gender, other)
        ]
        clean, corrupted = sides
        labels = {slot: span for slot, span in clean.spans.items() if slot != "OBJECT"}
        return PairDraft(
            clean.text,
            corrupted.text,
            answers=(_pronoun(clean.text, gender),),
            wrong=(_pronoun(clean.text, other),),
            spans=labels,
            corrupted_spans={slot: corrupted.spans[slot] for slot in labels},
            info={
                "template": pattern.id,
                "gender": gender,
                "name": _word(clean.text, clean.spans["NAME"]),
                "corrupted_name": _word(corrupted.text, corrupted.spans["NAME"]),
            },
        )

    return draw_pairs(encoder, draw, n, task)


def _known_names(encoder: Encoder, names: Sequence[str], kind: str, task: str) -> list[str]:
    listed = checked_words(names, kind=kind, task=task)
    known = [name for name in listed if not encoder.unknown_words(name)]
    if not known:
        raise TokenizationError(
            f"task {task!r}: {encoder.name!r} knows none of the {kind} {list_some(listed)}; give others."
        )
    return known


def _pronoun(prompt: str, gender: str) -> str:
    word = PRONOUNS[gender]["subject"]
    return f" {word.capitalize() if prompt[-1] in '.!?' else word}"


def _word(text: str, span: tuple[int, int]) -> str:
    return text[span[0] : span[1]]
