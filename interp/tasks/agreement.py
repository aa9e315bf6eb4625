"""Subject-verb agreement across another noun: "The boys near the car" -> "run", not "runs".

Linzen, Dupoux and Goldberg 2016 (arXiv 1611.01368); as causal analysis of pairs that differ in the
subject's number, Finlayson et al. 2021 (arXiv 2106.06087).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from interp.errors import TaskError, TokenizationError, unknown_name
from interp.tasks.drawing import checked_words, draw_pairs, known_words, list_some, pick_templates
from interp.tasks.lexicon import AGREEMENT_VERBS, NOUNS, PLACES, RELATIVE_VERBS, VERBS, Inflected
from interp.tasks.pairs import EncodedPair, PairDraft
from interp.tasks.templates import Template, fill_template, templates_for
from interp.tasks.tokenize import Encoder

NUMBERS = ("singular", "plural")
ATTRACTORS = ("opposite", "same", "any", "none")


def make_agreement(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    split: str = "heldout",
    template: str | None = None,
    attractor: str = "opposite",
    verbs: Sequence[str] | None = None,
) -> list[EncodedPair]:
    """Pairs with labels ``SUBJECT``, ``END`` and ``ATTRACTOR`` where there is one.

    The corrupted prompt has the subject in the other number. Answers are all verbs in the subject's
    number, wrong the same verbs in the other. ``attractor`` is the number of the noun in between,
    compared with the clean subject's: ``"opposite"``, ``"same"``, ``"any"``, or ``"none"`` for
    prompts without one. ``verbs`` names the verbs to answer with, in either form (``["run"]``).
    ``split`` and ``template`` as in IOI; a text of your own has ``{SUBJECT}`` and may have
    ``{ATTRACTOR} {RELATIVE}`` (a verb that agrees with it) ``{RELATIVE_S}`` ``{PLACE}``.
    """
    if attractor not in ATTRACTORS:
        raise TaskError(unknown_name("attractor of task 'agreement'", str(attractor), ATTRACTORS))
    has_attractor = attractor != "none"
    all_templates = [t for t in templates_for("agreement") if ("ATTRACTOR" in t.slots) == has_attractor]
    templates = pick_templates(
        encoder, "agreement", all_templates, split=split, template=template, slots=("SUBJECT",)
    )
    nouns = _usable(encoder, NOUNS, "nouns", 2 if has_attractor else 1)
    answers = _usable(encoder, AGREEMENT_VERBS if verbs is None else _named(verbs), "verbs", 1)
    relatives = _usable(encoder, RELATIVE_VERBS, "verbs", 1) if _has_relative(templates) else RELATIVE_VERBS
    places = known_words(encoder, PLACES, kind="places", task="agreement")

    def draw() -> PairDraft:
        pattern = rng.choice(templates)
        subject, between = rng.sample(nouns, 2) if has_attractor else (rng.choice(nouns), None)
        number, other = rng.sample(NUMBERS, 2)
        same = {"same": number, "opposite": other}.get(attractor, rng.choice(NUMBERS))
        relative = rng.choice(relatives)
        fills = {"PLACE": rng.choice(places), "RELATIVE": relative.form(same)}
        if between is not None:
            fills["ATTRACTOR"] = between.form(same)
        clean, corrupted = (
            fill_template(
                pattern.prompt, {**fills, "SUBJECT": subject.form(which), "RELATIVE_S": relative.form(which)}
            )
            for which in (number, other)
        )
        labels = [slot for slot in ("SUBJECT", "ATTRACTOR") if slot in clean.spans]
        return PairDraft(
            clean.text,
            corrupted.text,
            answers=tuple(f" {verb.form(number)}" for verb in answers),
            wrong=tuple(f" {verb.form(other)}" for verb in answers),
            spans={slot: clean.spans[slot] for slot in labels},
            corrupted_spans={slot: corrupted.spans[slot] for slot in labels},
            info={
                "template": pattern.id,
                "number": number,
                "subject": subject.form(number),
                "attractor": fills.get("ATTRACTOR"),
                "attractor_number": same if between is not None else None,
            },
        )

    return draw_pairs(encoder, draw, n, "agreement")


def _has_relative(templates: Sequence[Template]) -> bool:
    return any("RELATIVE" in t.slots or "RELATIVE_S" in t.slots for t in templates)


def _named(verbs: Sequence[str]) -> list[Inflected]:
    listed = checked_words(verbs, kind="verbs", task="agreement")
    by_form = {form: verb for verb in VERBS for form in (verb.singular, verb.plural)}
    for verb in listed:
        if verb not in by_form:
            raise TaskError(unknown_name("verb of task 'agreement'", verb, by_form))
    return list(dict.fromkeys(by_form[verb] for verb in listed))


def _usable(encoder: Encoder, words: Sequence[Inflected], kind: str, needed: int) -> list[Inflected]:
    """Words whose two forms are one token each behind a space."""
    tokens = encoder.single_tokens(form for word in words for form in (word.singular, word.plural))
    good = [word for word in words if tokens[word.singular] is not None and tokens[word.plural] is not None]
    if len(good) < needed:
        bad = [form for form, token in tokens.items() if token is None]
        raise TokenizationError(
            f"task 'agreement' needs {needed} {kind} whose singular and plural are one token each; "
            f"{encoder.name!r} has {len(good)} of {len(words)}. Not one token: {list_some(bad)}."
        )
    return good
