"""The grammar: all generated text is legal, and text that was changed is not."""

from __future__ import annotations

import math
from random import Random

import pytest

from interp.errors import TaskError
from interp.tasks.grammar import is_legal, legal_share, parse_sentence, parse_text
from interp.tasks.sentences import DRAW, STEERABLE
from interp.tasks.slots import SLOTS, phrases_for, texts_of
from interp.tasks.templates import TEMPLATES, Split
from interp.tasks.world import BOS, EOS, KINDS, SPECIAL_TOKENS, Document, generate_documents, vocabulary

WORDS = vocabulary()[len(SPECIAL_TOKENS) :]


def documents(split: Split, n: int = 60, seed: int = 0) -> list[Document]:
    return [one for kind in KINDS for one in generate_documents(n, seed, split, [kind])]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_generated_document_is_legal(split: Split) -> None:
    for document in documents(split, n=300):
        assert is_legal(document.words), document
        parts = parse_text(document.words)
        assert [part.words for part in parts] == [sentence.words for sentence in document.sentences]
        assert all(part.complete for part in parts)
    assert legal_share(one.words for one in documents(split)) == 1


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_sentences_give_back_their_template_slots_and_attributes(split: Split) -> None:
    for document in documents(split, n=150, seed=1):
        for sentence in document.sentences:
            found = parse_sentence(sentence.words)
            assert found is not None
            assert (found.kind, found.template) == (sentence.kind, sentence.template)
            assert found.consistent
            for name, value in found.attributes.items():
                assert sentence.attributes[name] == value
            if sentence.answer is not None:
                assert found.fills["ANSWER"] == sentence.words[sentence.answer]
            if sentence.kind in ("agreement", "pronouns"):
                assert dict(found.attributes) == dict(sentence.attributes)


def test_attribute_sentences_express_only_their_values_and_count_them() -> None:
    for document in documents("train", n=150, seed=2):
        for sentence in document.sentences if document.kind == "attributes" else ():
            found = parse_sentence(sentence.words)
            assert found is not None
            for name, counts in found.expressed.items():
                said = {value for value, count in counts.items() if count}
                assert said <= {sentence.attributes[name]}
    found = parse_sentence("Wow, this guy loved the song because it was extremely bad.")
    assert found is not None
    assert not found.consistent
    assert found.attributes == {"formality": None, "sentiment": None, "tense": "past", "topic": "music"}
    assert found.expressed["formality"] == {"formal": 1, "informal": 2}
    assert found.expressed["sentiment"] == {"positive": 1, "negative": 1}


@pytest.mark.parametrize("kind", [*DRAW, "attributes"])
def test_shuffled_words_are_not_legal(kind: str) -> None:
    rng = Random(0)
    for document in generate_documents(150, 3, kinds=[kind]):
        for sentence in document.sentences:
            words = list(sentence.words)
            rng.shuffle(words)
            if tuple(words) != sentence.words:
                assert not is_legal(words), words


@pytest.mark.parametrize("kind", [*DRAW, "attributes", "induction"])
def test_a_word_dropped_doubled_or_swapped_with_the_next_is_not_legal(kind: str) -> None:
    rng, checked = Random(1), 0
    for document in generate_documents(150, 4, kinds=[kind]):
        sentence = rng.choice(document.sentences)
        # two words of a docstring side by side may be swapped: nothing binds them
        free = [role.startswith("WORD") for role in sentence.roles]
        places = [i for i in range(len(free) - 1) if not (free[i] and free[i + 1])]
        words, at = list(sentence.words), rng.choice(places)
        dropped = words[:at] + words[at + 1 :]
        doubled = words[: at + 1] + words[at:]
        swapped = [*words[:at], words[at + 1], words[at], *words[at + 2 :]]
        for changed in (dropped, doubled, swapped):
            assert parse_sentence(changed) is None, (words, changed)
            checked += 1
    assert checked >= 450


def test_a_random_word_in_place_of_a_template_word_is_not_legal() -> None:
    rng = Random(2)
    for kind in DRAW:
        for document in generate_documents(100, 5, kinds=[kind]):
            (sentence,) = document.sentences
            fixed = [i for i, role in enumerate(sentence.roles) if not role]
            words = list(sentence.words)
            words[rng.choice(fixed)] = "kitchen"
            assert not is_legal(words), words


def test_every_wrong_answer_is_not_legal_and_every_other_right_one_is() -> None:
    for kind in DRAW:
        for document in generate_documents(60, 6, kinds=[kind]):
            (sentence,) = document.sentences
            assert sentence.answer is not None
            for words, legal in ((sentence.wrong, False), (sentence.also_right, True)):
                for word in words:
                    changed = list(sentence.words)
                    changed[sentence.answer] = word
                    assert is_legal(changed) is legal, changed


@pytest.mark.parametrize(
    "text",
    [
        "Then, Mary and Mary went to the store. Mary gave a ring to Mary.",
        "The boys near the boy run.",
        "The boy that the dog know runs.",
        "The boy who know the dog runs.",
        "The boy runs happy.",
        "The boy is a ring.",
        "The boy has happy.",
        "The war lasted from the year 1750 to the year 1699.",
        "The war lasted from the year 1750 to the year 1650.",
        "I see a red cup, a red bowl and a blue hat. What color is the hat? It is blue.",
        "I see a red cup, a green bowl and a blue hat. What color is the pen? It is blue.",
        "Then Mary bought a ring because she wanted a ball.",
        "the baker was extremely good.",
        "the audience loved the good soup yesterday.",
        "The baker was extremely good",
        "The baker did not baked the soup yesterday, and everybody loved it.",
        "def name(self, file, size, load, name):",
        "",
    ],
)
def test_sentences_that_break_a_rule_are_not_legal(text: str) -> None:
    assert parse_sentence(text) is None
    assert not is_legal(text)


def test_tenses_and_topics_may_mix_in_a_legal_sentence() -> None:
    found = parse_sentence("The audience loved the good soup next week.")
    assert found is not None and not found.consistent
    assert found.fills == {"PEOPLE": "the audience", "REACT": "loved", "ADJECTIVE": "good", "OBJECT": "soup",
                           "TIME": "next week"}  # fmt: skip
    assert found.attributes["tense"] is None


def test_repeated_words_are_legal_twice_and_three_times() -> None:
    once = "cup bowl . pen".split()
    assert is_legal(once * 2) and is_legal(once * 3)
    assert not is_legal(once) and not is_legal(once * 4) and not is_legal(once[:3] * 2)
    assert not is_legal([*once, *reversed(once)])
    assert not is_legal(["cup", "cup", "bowl", "pen"] * 2)
    assert not is_legal(["zebra", "cup", "bowl", "pen"] * 2)


def test_a_text_is_taken_apart_at_special_tokens_stops_and_where_it_is_cut() -> None:
    text = f"{BOS} The baker was extremely good. It is soup. It is a joy for the {EOS} The boy runs. {EOS}"
    parts = parse_text(text)
    assert [" ".join(part.words) for part in parts] == [
        "The baker was extremely good .",
        "It is soup .",
        "It is a joy for the",
        "The boy runs .",
    ]
    assert [part.sentence is not None for part in parts] == [True, False, False, True]
    assert [part.complete for part in parts] == [True, True, False, True]
    assert legal_share([text]) == pytest.approx(2 / 3)
    assert math.isnan(legal_share(["It is a joy"])) and math.isnan(legal_share([]))
    with pytest.raises(TaskError, match=r"give \[text\]"):
        legal_share(text)
    assert not is_legal(text)


def test_several_sentences_are_legal_only_of_attributes() -> None:
    assert is_legal("The baker was extremely good. It is a joy for the chef.")
    assert not is_legal("The boy runs. The dog runs.")
    assert not is_legal("The baker was extremely good. The boy runs.")
    assert not is_legal("The baker was extremely good. <unk>")
    # a full stop within a sentence does not end it
    ioi = "Today, Mary and John had fun at the store. Mary handed a ring to John."
    assert [part.sentence is not None for part in parse_text(ioi)] == [True]


def test_every_slot_of_every_template_has_words_and_every_word_is_in_the_vocabulary() -> None:
    known = set(WORDS)
    for kind, templates in TEMPLATES.items():
        for template in templates:
            assert all(phrases_for(kind, slot) for slot in template.slots)
            assert texts_of(template)
        for phrases in SLOTS[kind].values():
            assert all(set(phrase.split()) <= known for phrase in phrases)
    for name in STEERABLE:
        values = {v for p in SLOTS["attributes"].values() for by in p.values() for v in by.get(name, ())}
        assert len(values) >= 2
