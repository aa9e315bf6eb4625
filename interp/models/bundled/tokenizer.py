"""Word-level tokenizers of the generated texts, as Hugging Face fast tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from interp.tasks.sentences import WORD_PATTERN
from interp.tasks.world import BOS, EOS, PAD, UNK, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_world_tokenizer(n_ctx: int) -> PreTrainedTokenizerFast:
    """Tokenizer over :func:`interp.tasks.world.vocabulary`: see :func:`build_word_tokenizer`."""
    return build_word_tokenizer(token_ids(), n_ctx)


def build_word_tokenizer(numbers: Mapping[str, int], n_ctx: int) -> PreTrainedTokenizerFast:
    """Tokenizer over the words of ``numbers``, special tokens of the world among them.

    A word is one token with or without a space before it; a year is two tokens (``1732`` is ``17``,
    ``32``); case is kept; unknown words become ``<unk>``. ``<bos>`` is prepended wherever special
    tokens are asked for. Decoding joins words with spaces, attaches punctuation and joins years.

    ``n_ctx`` is the longest sequence, as the tokenizer's ``model_max_length``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = dict(numbers)
    backend = Tokenizer(models.WordLevel(vocab=ids, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {EOS} $B", special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\b[0-9]{2}) (?=[0-9]{2}\b)"), ""),
            decoders.Replace(Regex(r"(?<=\() | (?=[():])"), ""),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=n_ctx,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
