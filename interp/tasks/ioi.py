"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> "Mary".

Wang et al. 2022, "Interpretability in the wild" (arXiv 2211.00593).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from random import Random
from typing import get_args

from interp.errors import TaskError, unknown_name
from interp.tasks.drawing import SPLITS, draw_pairs, known_words, one_token_words, pick_templates
from interp.tasks.lexicon import NAMES, OBJECTS, PLACES, is_heldout_pair
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import Order, Template, fill_template, order_names, templates_for
from interp.tasks.tokenize import Encoder

ORDERS: tuple[Order, ...] = get_args(Order)
CORRUPTIONS = ("swap", "abc")
NAME_SLOTS = ("FIRST", "SECOND", "S2")


def make_ioi(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    split: str = "heldout",
    template: str | None = None,
    corrupted: str = "swap",
    names: Sequence[str] | None = None,
) -> list[EncodedPair]:
    """Pairs with labels ``IO``, ``S1``, ``S1+1`` (the token after S1), ``S2`` and ``END``.

    ``split``: ``"heldout"`` uses the templates and the pairs of names that no bundled model was
    trained on, ``"train"`` those it was, ``"all"`` every one. ``template``: ``"ABBA"`` or ``"BABA"``
    for one order of the names (mixed otherwise), a template's id, or your own text with slots
    ``{FIRST} {SECOND} {S2}`` and, if you like, ``{PLACE} {OBJECT}``. ``corrupted``: ``"swap"``
    repeats the other name, so that the wrong answer becomes the right one; ``"abc"`` puts three
    unrelated names, as p_ABC of the paper, and no answer is right. ``names``: yours instead of the
    lexicon's; they are paired freely, whatever the split.
    """
    if corrupted not in CORRUPTIONS:
        raise TaskError(unknown_name("corrupted prompt of task 'ioi'", str(corrupted), CORRUPTIONS))
    orders = tuple(order for order in ORDERS if order == template) or ORDERS
    templates = pick_templates(
        encoder,
        "ioi",
        templates_for("ioi"),
        split=split,
        template=None if template in ORDERS else template,
        slots=NAME_SLOTS,
    )
    needed = 2 if corrupted == "swap" else 5
    people = one_token_words(encoder, names or NAMES, kind="names", needed=needed, task="ioi", option="names")
    couples = _couples(people, "all" if names else split)
    places = known_words(encoder, PLACES, kind="places", task="ioi")
    objects = known_words(encoder, OBJECTS, kind="objects", task="ioi")

    def draw() -> PairDraft:
        io, subject = rng.choice(couples)
        order = rng.choice(orders)
        fills = {"PLACE": rng.choice(places), "OBJECT": rng.choice(objects)}
        fills |= order_names(io, subject, order)
        if corrupted == "swap":
            others = {"S2": io}
        else:
            unrelated = rng.sample([name for name in people if name not in (io, subject)], 3)
            others = dict(zip(NAME_SLOTS, unrelated, strict=True))
        return _draft(rng.choice(templates), order, fills, others, io, subject)

    pairs = draw_pairs(encoder, draw, n, "ioi")
    return [replace(pair, labels=_with_next(pair.labels)) for pair in pairs]


def _couples(people: Sequence[str], split: str) -> list[tuple[str, str]]:
    couples = [
        pair
        for pair in permutations(people, 2)
        if split == "all" or is_heldout_pair(*pair) == (split == "heldout")
    ]
    if not couples:
        raise TaskError(
            f"task 'ioi': no pair of {', '.join(people)} belongs to split {split!r}; use another of "
            f"{', '.join(SPLITS)}, or give names=[...]."
        )
    return couples


def _draft(
    template: Template, order: str, fills: Mapping[str, str], others: Mapping[str, str], io: str, subject: str
) -> PairDraft:
    clean = fill_template(template.prompt, fills)
    corrupted = fill_template(template.prompt, {**fills, **others})
    first, second = ("IO", "S1") if order == "ABBA" else ("S1", "IO")
    slots = {first: "FIRST", second: "SECOND", "S2": "S2"}
    return PairDraft(
        clean.text,
        corrupted.text,
        answers=(f" {io}",),
        wrong=(f" {subject}",),
        spans={label: clean.spans[slots[label]] for label in ("IO", "S1", "S2")},
        corrupted_spans={label: corrupted.spans[slot] for label, slot in slots.items()},
        info={
            "template": template.id,
            "order": order,
            "io": io,
            "subject": subject,
            **fills,
            "corrupted": dict(others),
        },
    )


def _with_next(labels: Mapping[str, int]) -> dict[str, int]:
    return {**labels, "S1+1": labels["S1"] + 1}
