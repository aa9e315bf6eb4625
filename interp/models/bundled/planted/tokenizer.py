"""Word-level tokenizers for models with a small closed vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, UNKNOWN = "<pad>", "<bos>", "<unk>"


def number_words(words: Sequence[str]) -> dict[str, int]:
    """Token ids: 0 to 2 are ``<pad>``, ``<bos>``, ``<unk>``, then ``words`` in order."""
    return {word: index for index, word in enumerate([PAD, BOS, UNKNOWN, *words])}


def build_word_tokenizer(name: str, words: Sequence[str], n_ctx: int) -> PreTrainedTokenizerFast:
    """A tokenizer that splits on whitespace, one token a word, and puts ``<bos>`` in front.

    Ids are those of :func:`number_words`; ``n_ctx`` is the longest sequence. Padding goes left.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = number_words(words)
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        name_or_path=name,
        bos_token=BOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=n_ctx,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
