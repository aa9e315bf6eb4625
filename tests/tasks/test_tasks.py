"""The tasks that come with the package, in tokens of several kinds of tokenizer."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import tasks
from interp.errors import TaskError, TokenizationError
from interp.tasks import NO_TOKEN, PromptPairs
from interp.tasks.lexicon import FEMALE_NAMES, MALE_NAMES, NOUNS, PRONOUNS, is_heldout_pair
from interp.tasks.pronouns import STORY_GIRLS
from interp.tasks.templates import templates_for

TEXT_TASKS = [name for name in tasks.available() if name != "induction"]


def _load(name: str, tokenizer: Any, **options: Any) -> PromptPairs:
    return tasks.load(name, tokenizer, **{"n": 12, **options})


@pytest.fixture(params=list(tasks.available()))
def task_name(request: pytest.FixtureRequest, tokenizer: Any) -> str:
    """Every task that this tokenizer allows; that the other one is refused is a test of its own."""
    digits = tokenizer("from 1732", add_special_tokens=False)["input_ids"]
    return "ioi" if request.param == "greater_than" and len(digits) > 3 else request.param


def _rows(task: PromptPairs, side: str) -> list[list[int]]:
    ids = getattr(task, side)
    return [row[real].tolist() for row, real in zip(ids, task.mask, strict=True)]


def _words(task: PromptPairs, ids: torch.Tensor, tokenizer: Any) -> list[list[str]]:
    return [[tokenizer.decode([i]).strip() for i in row if i != NO_TOKEN] for row in ids.tolist()]


def _label_text(task: PromptPairs, label: str, row: int) -> str:
    assert task.clean_str_tokens is not None
    return task.clean_str_tokens[row][int(task.labels[label][row])].strip()


def test_rows_are_the_tokens_of_their_texts(task_name, tokenizer):
    """Against the tokenizer alone: BOS, then the text's tokens; equal lengths inside a pair."""
    task = _load(task_name, tokenizer)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for side in ("clean", "corrupted"):
        for ids, text in zip(_rows(task, side), getattr(task, f"{side}_text"), strict=True):
            assert ids[: len(bos)] == bos
            if task_name == "induction":
                assert text == tokenizer.decode(ids)
            else:
                assert ids[len(bos) :] == tokenizer(text, add_special_tokens=False)["input_ids"]
    for texts in (task.clean_str_tokens, task.corrupted_str_tokens):
        assert [len(row) for row in texts] == task.lengths.tolist()
    assert all(a != b for a, b in zip(_rows(task, "clean"), _rows(task, "corrupted"), strict=True))


def test_answers_are_one_token_behind_their_prompt(task_name, tokenizer):
    task = _load(task_name, tokenizer)
    if task_name == "induction":
        return
    for i, text in enumerate(task.clean_text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for side in (task.answers, task.wrong):
            for token in side[i][side[i] != NO_TOKEN].tolist():
                word = tokenizer.decode([token]).strip()
                spellings = {text + glue + word for glue in ("", " ")}
                assert [*ids, token] in [
                    tokenizer(s, add_special_tokens=False)["input_ids"] for s in spellings
                ]
        assert not set(task.answers[i].tolist()) & set(task.wrong[i].tolist()) - {NO_TOKEN}


@given(n=st.integers(1, 25), seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("name", ["ioi", "agreement", "pronouns", "docstring"])
def test_padding_side_moves_no_token_and_no_label(name, bpe_tokenizer, n, seed):
    right = tasks.load(name, bpe_tokenizer, n=n, seed=seed, split="all")
    left = tasks.load(name, bpe_tokenizer, n=n, seed=seed, split="all", padding_side="left")
    assert _rows(right, "clean") == _rows(left, "clean")
    assert _rows(right, "corrupted") == _rows(left, "corrupted")
    assert list(right.labels) == list(left.labels)
    rows = torch.arange(n)
    for label in right.labels:
        for side in ("clean", "corrupted"):
            assert torch.equal(
                getattr(right, side)[rows, right.columns_of(label)],
                getattr(left, side)[rows, left.columns_of(label)],
            )
    assert torch.equal(right.end, right.columns_of("END"))
    assert torch.equal(left.end, torch.full((n,), left.clean.shape[1] - 1))


def test_same_arguments_same_prompts(task_name, tokenizer):
    random.seed(3)
    state, torch_state = random.getstate(), torch.get_rng_state()
    first, again, other = (_load(task_name, tokenizer, seed=seed) for seed in (5, 5, 6))
    assert first.clean_text == again.clean_text and first.corrupted_text == again.corrupted_text
    assert torch.equal(first.answers, again.answers)
    assert first.clean_text != other.clean_text
    assert random.getstate() == state and torch.equal(torch.get_rng_state(), torch_state)


def test_the_same_prompts_in_another_process(tokenless_model):
    """String hashes differ between processes; prompts must not. The import stays light, too."""
    code = (
        "import sys; from types import SimpleNamespace as N; from interp import tasks; "
        "m = N(tokenizer=None, name='bare', traits=N(d_vocab=61), prepend_bos=False); "
        "print(tasks.load('induction', m, n=4, seed=3).clean.tolist()); print(*sys.modules)"
    )
    environment = {"PYTHONHASHSEED": "17", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | environment
    ).stdout
    prompts, modules = out.splitlines()
    assert prompts == str(tasks.load("induction", tokenless_model, n=4, seed=3).clean.tolist())
    assert not {"transformers", "tokenizers", "pandas", "datasets", "plotly"} & set(modules.split())


def test_no_prompt_twice(task_name, tokenizer):
    task = _load(task_name, tokenizer, n=60)
    assert len(set(map(tuple, _rows(task, "clean")))) == 60


def test_ioi_reads_as_it_should(tokenizer):
    """S2 is the name that came before, the answer the other one; "swap" turns that around."""
    task = _load("ioi", tokenizer, n=40)
    answers, wrong = _words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer)
    names = {*FEMALE_NAMES, *MALE_NAMES}
    orders = set()
    for i, (clean, corrupted) in enumerate(zip(task.clean_text, task.corrupted_text, strict=True)):
        for text, right, other in ((clean, answers[i], wrong[i]), (corrupted, wrong[i], answers[i])):
            first, second, last = [word for word in re.findall(r"\w+", text) if word in names]
            assert last in (first, second) and first != second
            assert right == [second if last == first else first] and other == [last]
        assert is_heldout_pair(answers[i][0], wrong[i][0])
        assert _label_text(task, "IO", i) == answers[i][0]
        assert _label_text(task, "S1", i) == _label_text(task, "S2", i) == wrong[i][0]
        assert int(task.labels["S1+1"][i]) == int(task.labels["S1"][i]) + 1
        assert int(task.labels["S2"][i]) > max(int(task.labels[x][i]) for x in ("IO", "S1"))
        orders.add(bool(task.labels["IO"][i] < task.labels["S1"][i]))
    assert orders == {True, False}
    differs = task.clean != task.corrupted
    assert torch.equal(differs.int().argmax(dim=1), task.columns_of("S2")) and bool(
        (differs.sum(dim=1) == 1).all()
    )


def test_ioi_abc_names_three_strangers(tokenizer):
    task = _load("ioi", tokenizer, corrupted="abc", template="ABBA")
    names = {*FEMALE_NAMES, *MALE_NAMES}
    for i, text in enumerate(task.corrupted_text):
        strangers = [word for word in re.findall(r"\w+", text) if word in names]
        assert len(set(strangers)) == 3
        assert not set(strangers) & {task.info[i]["io"], task.info[i]["subject"]}
    assert bool((task.labels["IO"] < task.labels["S1"]).all())


def test_splits_do_not_meet(word_tokenizer):
    for name in ("ioi", "agreement", "coloured_objects", "greater_than", "pronouns", "docstring"):
        known = {t.id: t.heldout for t in templates_for(name.replace("coloured", "colored"))}
        for split in ("train", "heldout"):
            task = _load(name, word_tokenizer, n=30, split=split)
            assert {known[info["template"]] for info in task.info} == {split == "heldout"}
    train = _load("ioi", word_tokenizer, n=60, split="train")
    assert not any(is_heldout_pair(info["io"], info["subject"]) for info in train.info)
    both = {
        is_heldout_pair(i["io"], i["subject"]) for i in _load("ioi", word_tokenizer, n=99, split="all").info
    }
    assert both == {True, False}


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_greater_than_splits_the_years(kind, request):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    task = _load("greater_than", tokenizer, n=30)
    assert task.metric is not None and task.metric.name == "prob_diff"
    later, earlier = _words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer)
    for i, text in enumerate(task.clean_text):
        century, year, again = re.search(r"(\d\d)(\d\d).* (\d\d)$", text).groups()
        assert century == again
        assert later[i] == [f"{y:02d}" for y in range(int(year) + 1, 100)]
        assert earlier[i] == [f"{y:02d}" for y in range(int(year) + 1)]
        assert task.corrupted_text[i] == text.replace(century + year, century + "02")
        assert [_label_text(task, label, i) for label in ("XX", "YY", "XX2")] == [century, year, century]


def test_greater_than_leaves_out_years_of_one_token(bpe_tokenizer):
    """As " 1800" in GPT-2's vocabulary: neither asked, nor answered, nor silently mistaken."""
    from copy import deepcopy

    tokenizer = deepcopy(bpe_tokenizer)
    tokenizer.add_tokens(["1732", "1102"])
    task = tasks.load("greater_than", tokenizer, n=200, split="all")
    found = {(info["century"], info["year"]) for info in task.info}
    assert ("17", "32") not in found and "11" not in {century for century, _ in found}
    seventeenth = next(i for i, info in enumerate(task.info) if info["century"] == "17")
    answers = {*task.answers[seventeenth].tolist(), *task.wrong[seventeenth].tolist()} - {NO_TOKEN}
    assert len(answers) == 99 and tokenizer.convert_tokens_to_ids("32") not in answers


def test_pronouns_follow_the_name(tokenizer):
    task = _load("pronouns", tokenizer, n=30, split="all")
    for i, (right, wrong) in enumerate(
        zip(_words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer), strict=True)
    ):
        she, he = PRONOUNS["female"]["subject"], PRONOUNS["male"]["subject"]
        name = _label_text(task, "NAME", i)
        assert (right, wrong) == (([she], [he]) if name in FEMALE_NAMES else ([he], [she]))
        assert (task.info[i]["corrupted_name"] in FEMALE_NAMES) != (name in FEMALE_NAMES)


def test_story_pronouns_take_names_of_several_tokens(bpe_tokenizer):
    task = _load(
        "story_pronouns", bpe_tokenizer, n=4, template="A {KIND} named {NAME}.", female=["Zuri", "Lily"]
    )
    assert set(" ".join(" ".join(row) for row in _words(task, task.answers, bpe_tokenizer)).split()) == {
        "She",
        "He",
    }
    lengths = {word: len(bpe_tokenizer(f" {word}")["input_ids"]) for word in ("Zuri", *STORY_GIRLS)}
    assert lengths["Zuri"] > 1 == lengths["Lily"]
    for i, row in enumerate(task.clean_str_tokens):
        end = int(task.labels["NAME"][i])
        assert "".join(row[: end + 1]).endswith(task.info[i]["name"])
        assert row[end + 1 :] == (".",)


def test_agreement_follows_the_subject_and_not_the_attractor(tokenizer):
    task = _load("agreement", tokenizer, n=30)
    plural = {noun.plural for noun in NOUNS}
    answers, wrong = _words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer)
    for i in range(len(task)):
        subject, attractor = _label_text(task, "SUBJECT", i), _label_text(task, "ATTRACTOR", i)
        assert (subject in plural) != (attractor in plural)
        assert all(word.endswith("s") == (subject not in plural) for word in answers[i])
        assert all(word.endswith("s") == (subject in plural) for word in wrong[i])
        changed = task.corrupted_str_tokens[i][int(task.labels["SUBJECT"][i])].strip()
        assert (changed in plural) != (subject in plural)
    same = _load("agreement", tokenizer, attractor="same", verbs=["runs", "are"])
    assert all(i["number"] == i["attractor_number"] for i in same.info)
    assert set(chain(*_words(same, same.answers, tokenizer))) <= {"run", "runs", "are", "is"}
    bare = _load("agreement", tokenizer, attractor="none", split="all")
    assert "ATTRACTOR" not in bare.labels and "SUBJECT" in bare.labels


def test_coloured_objects_answer_with_the_asked_colour(tokenizer):
    task = _load("coloured_objects", tokenizer, n=30)
    answers, wrong = _words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer)
    for i, text in enumerate(task.clean_text):
        colour_of = {item: colour for colour, item in re.findall(r"a (\w+) (\w+)(?=[,.]| and)", text)}
        assert len(colour_of) == 3
        asked = _label_text(task, "ASKED", i)
        assert [colour_of[asked]] == answers[i] == [_label_text(task, "COLOR", i)]
        assert asked == _label_text(task, "ITEM", i)
        other = _label_text(task, "WRONG_ITEM", i)
        assert [colour_of[other]] == wrong[i] == [_label_text(task, "WRONG_COLOR", i)]
        assert other in task.corrupted_str_tokens[i][int(task.labels["ASKED"][i])]


@pytest.mark.parametrize("corrupted", ["swap", "random_def", "random_doc"])
def test_docstring_continues_with_the_third_argument(tokenizer, corrupted):
    task = _load("docstring", tokenizer, n=20, corrupted=corrupted)
    answers, wrong = _words(task, task.answers, tokenizer), _words(task, task.wrong, tokenizer)
    for i, (clean, changed) in enumerate(zip(task.clean_text, task.corrupted_text, strict=True)):
        defined, documented = _read_docstring(clean)
        assert documented == defined[:2] and answers[i] == [defined[2]]
        other_defined, other_documented = _read_docstring(changed)
        if corrupted == "random_doc":
            assert other_defined == defined and not set(other_documented) & set(defined)
            assert wrong[i] == [defined[3]]
        else:
            assert other_documented == documented and wrong[i] == [other_defined[2]]
        if corrupted == "random_def":
            assert not set(other_defined) & set(defined)
        for label, word in zip(
            ("ARG1", "ARG2", "ARG3", "ARG4", "DOC1", "DOC2"), defined + documented, strict=True
        ):
            assert _label_text(task, label, i) == word


def _read_docstring(text: str) -> tuple[list[str], list[str]]:
    defined = re.search(r"\((.*)\):", text)[1].replace("self, ", "").split(", ")
    return defined, re.findall(r":param (\w+)", text)


@pytest.mark.parametrize("corrupted", ["break", "answer"])
def test_induction_repeats_and_its_corruption_does_not(tokenizer, corrupted):
    task = _load("induction", tokenizer, length=7, corrupted=corrupted)
    special = set(tokenizer.all_special_ids)
    bos = 0 if tokenizer.bos_token_id is None else 1
    for i, (clean, changed) in enumerate(zip(_rows(task, "clean"), _rows(task, "corrupted"), strict=True)):
        body, other = clean[bos:], changed[bos:]
        assert len(body) == 13 and not special & set(body) and len(set(body)) == 7
        assert body[:6] == body[7:] == other[7:]
        assert task.answers[i].tolist() == [body[6]] and task.wrong[i].tolist() == [other[6]]
        assert body[6] not in other
        assert set(other[:7]).isdisjoint(body) == (corrupted == "break")
        assert clean[int(task.labels["A1"][i])] == clean[int(task.labels["END"][i])] == clean[-1]
        assert clean[int(task.labels["B1"][i])] == body[6]
        assert int(task.labels["REPEAT"][i]) == bos + 7


def test_induction_needs_no_tokenizer(tokenless_model):
    task = tasks.load("induction", tokenless_model, n=9, length=5, vocab=range(20, 40))
    assert int(task.clean.min()) >= 20 and int(task.clean.max()) < 40
    assert task.clean_str_tokens[0] == tuple(map(str, task.clean[0].tolist()))
    assert int(tasks.load("induction", tokenless_model, n=50).clean.max()) <= 60


def test_a_template_of_ones_own(word_tokenizer):
    task = _load(
        "ioi",
        word_tokenizer,
        n=5,
        template="Then {FIRST} met {SECOND}, and {S2} gave it to",
        names=["Tom", "Amy", "Sam"],
    )
    assert {i["template"] for i in task.info} == {"custom"}
    assert task.clean.shape == (5, 11)
    one = _load("ioi", word_tokenizer, template="ioi/train-3")
    assert {i["template"] for i in one.info} == {"ioi/train-3"}


def test_bos_is_position_zero_or_left_out(word_tokenizer):
    with_bos = _load("ioi", word_tokenizer, template="ioi/train-0")
    without = _load("ioi", word_tokenizer, template="ioi/train-0", prepend_bos=False)
    assert torch.equal(with_bos.clean[:, 1:], without.clean)
    assert bool((with_bos.clean[:, 0] == word_tokenizer.bos_token_id).all())
    for label in with_bos.labels:
        assert torch.equal(with_bos.labels[label], without.labels[label] + 1)


def test_the_model_decides_about_bos(word_tokenizer):
    from types import SimpleNamespace

    model = SimpleNamespace(tokenizer=word_tokenizer, name="m", prepend_bos=False)
    assert not bool((_load("ioi", model).clean == word_tokenizer.bos_token_id).any())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iio", {}, "unknown task 'iio'; did you mean 'ioi'"),
        ("greater", {}, "did you mean 'greater_than'"),
        ("ioi", {"n": 0}, "at least one prompt; got n=0"),
        ("ioi", {"tempalte": "ABBA"}, "unknown option of task 'ioi' 'tempalte'; did you mean 'template'"),
        ("ioi", {"split": "test"}, "unknown split 'test'.*heldout"),
        ("ioi", {"template": "ioi/train-99"}, "unknown template of task 'ioi'"),
        ("ioi", {"template": "{FIRST} left"}, "lacks {SECOND}, {S2}"),
        ("ioi", {"corrupted": "abd"}, "did you mean 'abc'"),
        ("ioi", {"names": "Mary"}, "given as several words"),
        ("ioi", {"padding_side": "rihgt"}, "did you mean 'right'"),
        (
            "ioi",
            {"n": 9, "template": "Then {FIRST} met {SECOND}, and {S2} gave it to", "names": ["Tom", "Amy"]},
            "only 4",
        ),
        ("agreement", {"verbs": ["runns"]}, "did you mean 'runs'"),
        ("agreement", {"attractor": "opposit"}, "did you mean 'opposite'"),
        ("induction", {"length": 1}, "at least 2 tokens"),
        ("induction", {"length": 900}, "draws 1800 different tokens"),
        ("induction", {"vocab": [3, 99999]}, "outside the vocabulary.*99999"),
        ("induction", {"vocab": [3, 4, 5], "length": 2, "corrupted": "answer", "n": 7}, "only 6"),
    ],
)
def test_bad_options_are_refused_by_name(word_tokenizer, name, options, message):
    with pytest.raises(TaskError, match=message):
        tasks.load(name, word_tokenizer, **options)


def test_words_that_are_not_one_token_are_named(bpe_tokenizer, byte_tokenizer, metaspace_tokenizer):
    with pytest.raises(
        TokenizationError, match=r"needs 2 different names.*1 of 3 are \(Amy\), not Zuri, Qwghlm"
    ):
        tasks.load("ioi", bpe_tokenizer, names=["Zuri", "Amy", "Qwghlm"])
    with pytest.raises(TokenizationError, match=r"0 of 12 are, not pencil, cup.*and 4 more"):
        tasks.load("coloured_objects", byte_tokenizer)
    with pytest.raises(TokenizationError, match=r"needs years of two tokens.*makes 1732 3 tokens"):
        tasks.load("greater_than", metaspace_tokenizer)
    with pytest.raises(TokenizationError, match="needs 2 nouns whose singular and plural are one token"):
        tasks.load("agreement", byte_tokenizer)


def test_templates_of_unknown_words_are_left_out_or_refused(word_tokenizer):
    with pytest.raises(TokenizationError, match="lacks wombat"):
        tasks.load(
            "ioi", word_tokenizer, template="Then a wombat saw {FIRST} and {SECOND}, and {S2} gave it to"
        )


def test_names_that_never_align_are_refused(byte_tokenizer):
    with pytest.raises(TokenizationError, match=r"no pair drawn came out aligned.*as many tokens"):
        tasks.load(
            "story_pronouns", byte_tokenizer, n=1, template="It was {NAME}.", female=["Lily"], male=["Al"]
        )
