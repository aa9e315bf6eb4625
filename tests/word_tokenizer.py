"""A word-level tokenizer made in memory: ``w7`` is token 7."""

from __future__ import annotations

from typing import Any


def make_tokenizer(size: int = 53) -> Any:
    """``<bos>`` is 0, and ``<unk>``, any other word, 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<bos>": 0, "<unk>": 1, **{f"w{token}": token for token in range(2, size)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", eos_token="<bos>", unk_token="<unk>"
    )
