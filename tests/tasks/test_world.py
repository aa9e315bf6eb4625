"""The generated world: split, labels, vocabulary, packing."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, islice

import pytest
import torch

from interp.errors import TaskError
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES, measure_attribute
from interp.tasks.lexicon import (
    CENTURIES,
    FEMALE_NAMES,
    HELDOUT_PAIR_FRACTION,
    MALE_NAMES,
    NAMES,
    NOUNS,
    gender_of,
    is_heldout_pair,
)
from interp.tasks.sentences import DRAW, STEERABLE, Sentence, split_words
from interp.tasks.templates import TEMPLATES, fill_template, order_names, templates_for
from interp.tasks.world import (
    BOS,
    EOS,
    KINDS,
    NO_LABEL,
    SPECIAL_TOKENS,
    generate_documents,
    generate_tokens,
    label_tokens,
    pack_tokens,
    token_ids,
    vocabulary,
)


def sentences_of(kind: str, n: int, seed: int, split: str = "train") -> list[Sentence]:
    return [s for d in generate_documents(n, seed, split, [kind]) for s in d.sentences]


def test_same_seed_same_documents_and_other_seed_other() -> None:
    first, again, other = (list(generate_documents(60, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert list(generate_documents(60, 3, "heldout")) != first


def test_splits_share_no_template_and_both_have_some() -> None:
    for kind in (*DRAW, "attributes"):
        train = {s.template for s in sentences_of(kind, 400, 0)}
        heldout = {s.template for s in sentences_of(kind, 400, 0, "heldout")}
        assert train == {t.id for t in templates_for(kind, "train")}
        assert heldout == {t.id for t in templates_for(kind, "heldout")}
        texts = {t.prompt for t in templates_for(kind, "train")}
        assert not texts & {t.prompt for t in templates_for(kind, "heldout")}


def test_template_ids_are_unique_and_none_of_a_task_begins_with_a_slot() -> None:
    everything = [t for group in TEMPLATES.values() for t in group]
    assert len({t.id for t in everything}) == len(everything)
    assert not [t.id for t in everything if t.task != "attributes" and t.prompt.startswith("{")]


def test_ioi_name_pairs_are_held_out() -> None:
    for split, held in (("train", False), ("heldout", True)):
        for sentence in sentences_of("ioi", 500, 1, split):
            names = {w for w, r in zip(sentence.words, sentence.roles, strict=True) if r in ("IO", "S1")}
            assert len(names) == 2
            assert is_heldout_pair(*names) is held


def test_heldout_pairs_are_a_fixed_symmetric_fifth_and_every_name_trains() -> None:
    pairs = list(combinations(NAMES, 2))
    held = [pair for pair in pairs if is_heldout_pair(*pair)]
    assert all(is_heldout_pair(b, a) for a, b in held)
    assert abs(len(held) / len(pairs) - HELDOUT_PAIR_FRACTION) < 0.03
    partners = Counter(name for pair in pairs if not is_heldout_pair(*pair) for name in pair)
    assert min(partners[name] for name in NAMES) > len(NAMES) / 2


def test_ioi_answer_is_the_name_said_once_in_both_orders() -> None:
    orders = Counter()
    for sentence in sentences_of("ioi", 300, 2):
        said = Counter(word for word in sentence.prompt if word in NAMES)
        assert said[sentence.words[sentence.answer]] == 1
        assert said[sentence.wrong[0]] == 2
        assert sentence.words[sentence.roles.index("S2")] == sentence.words[sentence.roles.index("S1")]
        assert sentence.words[sentence.roles.index("IO")] == sentence.words[sentence.answer]
        orders[sentence.roles.index("IO") < sentence.roles.index("S1")] += 1
    assert 100 < orders[True] < 200


def test_greater_than_splits_all_years_at_the_start() -> None:
    for sentence in sentences_of("greater_than", 200, 3):
        start = int(sentence.words[sentence.roles.index("YY")])
        right = {int(year) for year in (sentence.words[sentence.answer], *sentence.also_right)}
        assert right == set(range(start + 1, 100))
        assert {int(year) for year in sentence.wrong} == set(range(start + 1))
        assert sentence.words[sentence.answer - 1] == sentence.words[sentence.roles.index("XX")]
        assert sentence.words[sentence.answer - 1] in CENTURIES


def test_agreement_answer_has_the_subjects_number() -> None:
    forms = {
        form: number for noun in NOUNS for number in ATTRIBUTES["number"] for form in [noun.form(number)]
    }
    disagreeing = 0
    for sentence in sentences_of("agreement", 300, 4):
        number = forms[sentence.words[sentence.roles.index("SUBJECT")]]
        assert sentence.attributes == {"number": number}
        assert sentence.words[sentence.answer] in ATTRIBUTE_WORDS["number"][number]
        assert sentence.wrong[0] not in ATTRIBUTE_WORDS["number"][number]
        if "ATTRACTOR" in sentence.roles:
            disagreeing += forms[sentence.words[sentence.roles.index("ATTRACTOR")]] != number
    assert disagreeing > 60


def test_pronouns_colors_and_arguments_ask_for_what_the_prompt_says() -> None:
    for sentence in sentences_of("pronouns", 100, 5):
        female = sentence.words[sentence.roles.index("NAME")] in FEMALE_NAMES
        assert sentence.words[sentence.answer] == ("she" if female else "he")
    for sentence in sentences_of("colored_objects", 100, 5):
        asked = sentence.words[sentence.roles.index("ASKED")]
        first = sentence.words.index(asked)
        assert sentence.words[first - 1] == sentence.words[sentence.answer]
        assert len({sentence.words[sentence.answer], *sentence.wrong}) == 3
    for sentence in sentences_of("docstring", 100, 5):
        assert sentence.words[sentence.answer] == sentence.words[sentence.roles.index("ARG3")]
        assert sentence.prompt[-1] == "param"


@pytest.mark.parametrize("attribute", STEERABLE)
def test_attributes_can_be_measured_by_counting_words(attribute: str) -> None:
    expressed = 0
    sentences = sentences_of("attributes", 300, 6)
    for sentence in sentences:
        counts = measure_attribute(sentence.words, attribute)
        value = sentence.attributes[attribute]
        assert not [other for other, n in counts.items() if n and other != value], sentence
        expressed += counts[value] > 0
    assert expressed > 0.5 * len(sentences)


def test_attribute_values_are_spread_over_many_words() -> None:
    for attribute in STEERABLE:
        used = Counter()
        for sentence in sentences_of("attributes", 500, 7):
            words = ATTRIBUTE_WORDS[attribute][sentence.attributes[attribute]]
            used.update(word for word in sentence.words if word in words)
        assert used.most_common(1)[0][1] < 0.3 * used.total()


def test_attributes_shift_between_sentences_now_and_then() -> None:
    documents = list(generate_documents(400, 8, kinds=["attributes"]))
    pairs = [(a, b) for d in documents for a, b in zip(d.sentences, d.sentences[1:], strict=False)]
    changed = [sum(a.attributes[n] != b.attributes[n] for n in STEERABLE) for a, b in pairs]
    assert max(changed) == 1
    assert 0.02 < sum(changed) / len(changed) < 0.12


def test_repeated_documents_repeat() -> None:
    for sentence in sentences_of("induction", 50, 9):
        length = sentence.roles.count("FIRST")
        assert len(set(sentence.words[:length])) == length
        assert len(sentence.words) % length == 0 and len(sentence.words) >= 2 * length
        assert all(sentence.words[i] == sentence.words[i % length] for i in range(len(sentence.words)))


def test_vocabulary_holds_every_generated_word_and_no_other_kind_of_token() -> None:
    ids = token_ids()
    assert len(set(vocabulary())) == len(vocabulary()) <= 700
    assert vocabulary()[:4] == SPECIAL_TOKENS
    for split in ("train", "heldout"):
        words = {word for d in generate_documents(1500, 10, split) for word in d.words}
        assert words <= set(ids)
    assert all(split_words(word) == [word] for word in vocabulary()[len(SPECIAL_TOKENS) :])


def test_fill_template_finds_every_slot() -> None:
    for template in (t for group in TEMPLATES.values() for t in group):
        words = {slot: f"x{i}" for i, slot in enumerate(template.slots)}
        filled = fill_template(template.prompt, words)
        assert filled.text == template.prompt.format(**words)
        for slot, (start, end) in filled.spans.items():
            assert filled.text[start:end] == words[slot]
            assert start == filled.text.index(words[slot])


def test_fill_template_names_the_missing_slot() -> None:
    with pytest.raises(TaskError, match="'OBJECT'"):
        fill_template("Then {S1} bought a {OBJECT}.", {"S1": "Mary"})


def test_order_names() -> None:
    assert order_names("Mary", "John", "ABBA") == {"FIRST": "Mary", "SECOND": "John", "S2": "John"}
    assert order_names("Mary", "John", "BABA") == {"FIRST": "John", "SECOND": "Mary", "S2": "John"}


def test_names_have_one_gender() -> None:
    assert not set(FEMALE_NAMES) & set(MALE_NAMES)
    assert [gender_of(name) for name in ("Mary", "John")] == ["female", "male"]


def test_labels_stand_on_the_tokens_they_describe() -> None:
    documents = list(generate_documents(200, 11))
    labelled = label_tokens(documents, 48)
    names = vocabulary()
    assert labelled.tokens.shape[1] == 48
    assert labelled.tokens.tolist() == list(pack_tokens(documents, 48))
    assert (labelled.tokens[:, 0] == token_ids()[BOS]).all()
    special = labelled.tokens < len(SPECIAL_TOKENS)
    for array in (labelled.kinds, labelled.templates, labelled.roles, *labelled.attributes.values()):
        assert array.shape == labelled.tokens.shape
        assert (array[special] == NO_LABEL).all()
    assert (labelled.kinds[~special] != NO_LABEL).all()
    for token, kind, role, template in zip(
        *(
            a.flatten().tolist()
            for a in (labelled.tokens, labelled.kinds, labelled.roles, labelled.templates)
        ),
        strict=True,
    ):
        if role != NO_LABEL and labelled.role_names[role] in ("IO", "S1", "S2"):
            assert names[token] in NAMES
            assert KINDS[kind] == "ioi"
            assert labelled.template_names[template].startswith("ioi/")
    for attribute, values in labelled.attributes.items():
        for i, value in enumerate(ATTRIBUTES[attribute]):
            words = {names[token] for token in labelled.tokens[values == i].tolist()}
            assert words & ATTRIBUTE_WORDS[attribute][value]


def test_packed_rows_are_documents_between_eos() -> None:
    documents = list(generate_documents(100, 12))
    texts = {" ".join(document.words) for document in documents}
    whole = 0
    for row in pack_tokens(documents, 64):
        line = " ".join(vocabulary()[i] for i in row)
        pieces = re.split(rf" ?{EOS} ?", line.removeprefix(f"{BOS} "))
        assert all(piece in texts for piece in pieces[:-1])
        assert any(text.startswith(pieces[-1]) for text in texts)
        whole += len(pieces) - 1
    assert whole > 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate_documents(1, 0, "test"), "unknown split 'test'"),
        (lambda: generate_documents(1, 0, kinds=["iio"]), "did you mean 'ioi'"),
        (lambda: next(generate_documents(1, 0)).values_of("tence"), "did you mean 'tense'"),
        (lambda: measure_attribute([], "topics"), "did you mean 'topic'"),
        (lambda: templates_for("ioii"), "did you mean 'ioi'"),
        (lambda: label_tokens(generate_documents(1, 0), 500), "do not fill one row of 500"),
    ],
)
def test_wrong_names_are_refused(call, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        call()


def test_rows_of_tokens_are_the_packed_documents():
    found = generate_tokens(5, 20, seed=3, split="heldout", kinds=("ioi", "agreement"))
    documents = generate_documents(200, 3, "heldout", ("ioi", "agreement"))
    assert found.tolist() == list(islice(pack_tokens(documents, 20), 5))
    assert not torch.equal(found, generate_tokens(5, 20, seed=4, split="heldout", kinds=("ioi", "agreement")))
    for wrong in ((0, 20), (5, 1)):
        with pytest.raises(TaskError, match="at least 1 row"):
            generate_tokens(*wrong)
