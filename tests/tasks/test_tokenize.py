from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interp.errors import TokenizationError
from interp.tasks.lexicon import NAMES, OBJECTS, PLACES
from interp.tasks.tokenize import Encoder, spell_answer, token_text

PROMPT = "Then, Mary and John went to the store. John gave a drink to"


class SlowTokenizer:
    """Whole words and no character offsets, as Python-only tokenizers are."""

    is_fast = False
    bos_token_id = eos_token_id = pad_token_id = unk_token_id = None
    all_special_ids: tuple[int, ...] = ()

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        ids = {word: i for i, word in enumerate(self.words)}
        return {"input_ids": [[ids.get(word, len(ids)) for word in text.split()] for text in texts]}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.words[token]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(self.words[i] for i in ids)


def test_an_answer_with_and_without_its_space(tokenizer):
    encoder = Encoder(tokenizer)
    prompt = encoder.encode(PROMPT)
    spelt = tokenizer(f"{PROMPT} Mary", add_special_tokens=False)["input_ids"][-1]
    assert encoder.answer_tokens(prompt, ["Mary", " Mary"]) == (spelt, spelt)
    after_stop = encoder.encode("John met Mary.")
    assert encoder.answer_tokens(after_stop, ["He"]) == encoder.answer_tokens(after_stop, [" He"])


def test_a_glued_answer_is_not_taken_for_a_spaced_one(bpe_tokenizer):
    """ "Mary" alone is another token than " Mary": it must not come out of "Mary" behind a word."""
    encoder = Encoder(bpe_tokenizer)
    [token] = encoder.answer_tokens(encoder.encode(PROMPT), ["Mary"])
    assert bpe_tokenizer.decode([token]) == " Mary"
    quoted = encoder.answer_tokens(encoder.encode('John said "'), ["m"])
    assert bpe_tokenizer.decode(list(quoted)) == "m"


def test_digits_go_on_with_a_number(bpe_tokenizer, word_tokenizer):
    for tokenizer in (bpe_tokenizer, word_tokenizer):
        encoder = Encoder(tokenizer)
        [token] = encoder.answer_tokens(encoder.encode("from 1732 to 17"), ["45"])
        assert tokenizer.decode([token]) == "45"


def test_where_a_space_is_a_token_answers_come_without_one(byte_tokenizer):
    encoder = Encoder(byte_tokenizer)
    [token] = encoder.answer_tokens(encoder.encode("ab"), ["c"])
    assert byte_tokenizer.decode([token]) == "c"


def test_a_rare_letter_is_no_excuse_for_a_glued_answer(bpe_tokenizer):
    """ " q" is two tokens here, though "q" is one and a space is one."""
    encoder = Encoder(bpe_tokenizer)
    assert len(bpe_tokenizer(" q")["input_ids"]) == 2 and len(bpe_tokenizer("q")["input_ids"]) == 1
    with pytest.raises(TokenizationError, match="must be one token"):
        encoder.answer_tokens(encoder.encode("They went to the store."), ["q"])


@given(
    prompt=st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1),
    answer=st.sampled_from(["Mary", "she", "45", " Mary", "(", "\n"]),
)
@example(prompt="17", answer="45")
def test_spelling_adds_one_space_or_nothing(prompt, answer):
    spelt = spell_answer(prompt, answer)
    assert spelt in (answer, f" {answer}")
    if prompt[-1] == " " or answer[0] in " (\n" or (prompt[-1] + answer[0]).isdigit():
        assert spelt == answer
    if prompt[-1].isalpha() and answer[0].isalpha():
        assert spelt == f" {answer}"


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        (PROMPT, "Zuri", r"answer ' Zuri'.* tokens, ' Z?.*must be one token"),
        (PROMPT + " ", "Mary", "changes the tokens of the prompt itself.*leave no space at its end"),
        (PROMPT, "", "adds no token"),
    ],
)
def test_answers_that_are_no_single_token(bpe_tokenizer, prompt, answer, message):
    encoder = Encoder(bpe_tokenizer)
    with pytest.raises(TokenizationError, match=message):
        encoder.answer_tokens(encoder.encode(prompt), [answer])


def test_words_outside_the_vocabulary(word_tokenizer):
    encoder = Encoder(word_tokenizer)
    with pytest.raises(TokenizationError, match="does not know 'Zuri', 'wombat' in"):
        encoder.encode("Then, Zuri went to the wombat, and Zuri left")
    with pytest.raises(TokenizationError, match=r"answer ' wombat'.*not in the vocabulary"):
        encoder.answer_tokens(encoder.encode(PROMPT), ["wombat"])
    assert encoder.unknown_words("Mary and Zuri") == ["Zuri"]


def test_an_unknown_token_that_is_the_end_token_means_nothing(bpe_tokenizer):
    """GPT-2 has one special token for everything, and spells any text."""
    assert bpe_tokenizer.unk_token_id == bpe_tokenizer.eos_token_id
    assert Encoder(bpe_tokenizer).unknown_id is None
    assert Encoder(bpe_tokenizer).unknown_words("Zuri the wombat") == []


@pytest.mark.parametrize("text", ["", "   "])
def test_text_without_tokens(word_tokenizer, text):
    with pytest.raises(TokenizationError, match=r"into no tokens. Give a prompt with words"):
        Encoder(word_tokenizer).encode(text)


def test_a_tokenizer_that_turns_text_into_nothing(word_tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    broken = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(TokenizationError, match=r"turns 'Mary' into no tokens. Check that its files"):
        Encoder(broken).encode("Mary")


def test_prompts_must_be_strings(word_tokenizer):
    with pytest.raises(TokenizationError, match="a prompt is a string; got int: 3"):
        Encoder(word_tokenizer).encode_many(["Mary", 3])  # type: ignore[list-item]


@given(
    words=st.lists(st.sampled_from([*NAMES, *PLACES, *OBJECTS]), min_size=2, max_size=9),
    index=st.integers(0, 8),
    prepend_bos=st.booleans(),
)
@pytest.mark.parametrize("kind", ["word", "bpe", "byte"])
def test_locate_finds_the_token_a_word_ends_with(kind, request, words, index, prepend_bos):
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    encoder = Encoder(tokenizer, prepend_bos and tokenizer.bos_token_id is not None)
    index %= len(words)
    text = " ".join(words)
    start = len(" ".join([*words[:index], ""])) if index else 0
    end = start + len(words[index])
    position = encoder.locate(encoder.encode(text), start, end)
    head = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
    assert position == len(head) - 1 + len(encoder.bos)


def test_locate_without_offsets():
    tokenizer = SlowTokenizer(["Mary", "and", "John", "went", "home"])
    encoder = Encoder(tokenizer)
    encoded = encoder.encode("Mary and John went home")
    assert encoded.spans is None
    assert [encoder.locate(encoded, s, e) for s, e in ((0, 4), (9, 13), (19, 23))] == [0, 2, 4]
    with pytest.raises(TokenizationError, match=r"no token of .* ends with 'Jo'; its tokens are 'Mary'"):
        encoder.locate(encoded, 9, 11)


def test_bos_by_default(word_tokenizer, byte_tokenizer, bpe_tokenizer):
    assert Encoder(bpe_tokenizer).bos == (bpe_tokenizer.bos_token_id,)
    assert Encoder(byte_tokenizer).bos == ()
    model = SimpleNamespace(tokenizer=bpe_tokenizer, name="m", prepend_bos=False)
    assert Encoder(model).bos == () and Encoder(model, prepend_bos=True).bos == (bpe_tokenizer.bos_token_id,)
    with pytest.raises(TokenizationError, match="no BOS token to prepend; pass prepend_bos=False"):
        Encoder(byte_tokenizer, prepend_bos=True)


def test_a_model_without_tokenizer(tokenless_model):
    with pytest.raises(TokenizationError, match=r"'bare' has no tokenizer.*from_tokens"):
        Encoder(tokenless_model).encode("Mary")


def test_padding_uses_a_token_the_model_has(word_tokenizer):
    """A pad token added behind the vocabulary has no embedding in the model."""
    assert Encoder(word_tokenizer).pad_id == word_tokenizer.pad_token_id
    small = SimpleNamespace(tokenizer=word_tokenizer, name="m", traits=SimpleNamespace(d_vocab=2))
    assert word_tokenizer.pad_token_id == 2 and Encoder(small).pad_id == word_tokenizer.eos_token_id == 1


def test_token_text_keeps_the_leading_space(bpe_tokenizer, metaspace_tokenizer):
    for tokenizer in (bpe_tokenizer, metaspace_tokenizer):
        ids = tokenizer("Mary met John", add_special_tokens=False)["input_ids"]
        assert [token_text(tokenizer, i) for i in ids][-1] == " John"
