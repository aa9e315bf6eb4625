"""Small tokenizers of every kind that tasks meet, built here from the words of the tasks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from interp.tasks.lexicon import CENTURIES, TWO_DIGITS
from interp.tasks.pronouns import STORY_BOYS, STORY_GIRLS, STORY_PLACES, STORY_TEMPLATES
from interp.tasks.sentences import WORD_PATTERN, split_words
from interp.tasks.world import vocabulary


def _wrap(backend: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """Word level, with an unknown token; adds BOS by itself where special tokens are asked for."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    words = ["<bos>", "<eos>", "<pad>", "<unk>"]
    words += _words()
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return _wrap(backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def _words() -> list[str]:
    """The words of all tasks, each once."""
    story = " ".join(t.prompt.format(KIND="girl boy", NAME="", PLACE="") for t in STORY_TEMPLATES)
    words = [word for word in vocabulary() if not word.startswith("<")]
    words += [*STORY_GIRLS, *STORY_BOYS, *STORY_PLACES, *split_words(story), "She", "He"]
    return list(dict.fromkeys(words))


def _training_text() -> list[str]:
    spaced = [f" {word}" for word in _words() if word.isalpha()]
    return (spaced + [f" {century}" for century in CENTURIES] + list(TWO_DIGITS)) * 3


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Any:
    """Byte-level BPE as GPT-2's: a leading space is part of a token; one special token, never added."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?[0-9]{2}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=2,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(), trainer)
    return _wrap(backend, bos_token="<|end|>", eos_token="<|end|>", unk_token="<|end|>")


@pytest.fixture(scope="session")
def metaspace_tokenizer() -> Any:
    """SentencePiece-like: "▁" for a space and before every text; no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=5000, min_frequency=2, show_progress=False)
    signs = list('.,:()"?\n' + "".join(chr(c) for c in range(32, 127)))
    backend.train_from_iterator([*_training_text(), *signs * 3], trainer)
    return _wrap(backend)


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """Every byte a token, spaces too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _wrap(backend)


@pytest.fixture(scope="session", params=["word", "bpe", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Every tokenizer that has the tasks' words as single tokens."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="session")
def tokenless_model() -> SimpleNamespace:
    """A model that knows its vocabulary and has no tokenizer."""
    return SimpleNamespace(tokenizer=None, name="bare", traits=SimpleNamespace(d_vocab=61), prepend_bos=False)
