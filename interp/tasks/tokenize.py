"""Text to tokens for tasks: the one place where prompts, answers and labels meet a tokenizer.

Prompts are encoded without the tokenizer's special tokens; BOS is put before them where the model
wants it and counts as position 0. An answer is judged as a continuation: it is one token when
``tokens(prompt + answer) == tokens(prompt) + [token]``, whatever it would be on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from interp.errors import TokenizationError

_PREFIX_MARK = "▁"


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None
    """Characters of ``text`` that each token covers, (0, 0) for BOS; ``None`` from a slow tokenizer."""


class Encoder:
    """One tokenizer, used the same way for every prompt, answer and label of a task.

    ``model`` is anything with a ``tokenizer`` (and, where it has them, ``name``, ``prepend_bos`` and
    ``traits.d_vocab``), or a Hugging Face tokenizer itself. ``prepend_bos=None`` follows the model,
    and for a bare tokenizer prepends BOS where there is one, as TransformerLens does (GPT-2 too).
    Raises :class:`TokenizationError` when text is given and there is no tokenizer.
    """

    def __init__(self, model: Any, prepend_bos: bool | None = None) -> None:
        is_tokenizer = hasattr(model, "convert_ids_to_tokens")
        self._tokenizer = model if is_tokenizer else getattr(model, "tokenizer", None)
        name = getattr(model, "name_or_path" if is_tokenizer else "name", "")
        self.name = name or type(model).__name__
        bos = getattr(self._tokenizer, "bos_token_id", None)
        if prepend_bos is None:
            prepend_bos = getattr(model, "prepend_bos", None)
        self.prepend_bos = bos is not None if prepend_bos is None else bool(prepend_bos)
        if self.prepend_bos and bos is None:
            raise TokenizationError(
                f"{self.name!r} has no BOS token to prepend; pass prepend_bos=False, or give a tokenizer."
            )
        self.bos: tuple[int, ...] = (int(bos),) if bos is not None and self.prepend_bos else ()
        self._traits = getattr(model, "traits", None)
        self._texts: dict[int, str] = {}

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            raise TokenizationError(
                f"{self.name!r} has no tokenizer, so text cannot be turned into tokens; load it with "
                "tokenizer=..., or give token tensors to interp.tasks.from_tokens."
            )
        return self._tokenizer

    @property
    def d_vocab(self) -> int | None:
        """Size of the model's vocabulary, or of the tokenizer's; ``None`` when neither is known."""
        size = getattr(self._traits, "d_vocab", None)
        if size is None and self.has_tokenizer:
            size = len(self.tokenizer)
        return size

    @property
    def pad_id(self) -> int:
        """Fills padding: masked everywhere, so any token that the model's embedding has will do."""
        for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            found = getattr(self._tokenizer, name, None)
            if isinstance(found, int) and found < (self.d_vocab or found + 1):
                return found
        return 0

    @cached_property
    def unknown_id(self) -> int | None:
        """Token of words outside the vocabulary; ``None`` where every text can be spelt."""
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        # GPT-2 names its end-of-text token as the unknown one, and never uses it so
        used_otherwise = (
            (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id) if self._tokenizer else ()
        )
        return None if unknown in used_otherwise else unknown

    def encode(self, text: str) -> Encoded:
        """Tokens of one prompt; raises as :meth:`encode_many` does."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of several prompts, BOS included.

        Raises :class:`TokenizationError` for text that is empty, becomes no tokens at all, or has
        words the tokenizer does not know.
        """
        encoded = self._encode(texts)
        for item in encoded:
            if len(item.ids) == len(self.bos):
                raise TokenizationError(
                    f"the tokenizer of {self.name!r} turns {item.text!r} into no tokens. "
                    + (
                        "Check that its files are complete."
                        if item.text.strip()
                        else "Give a prompt with words."
                    )
                )
            if unknown := self._unknown_in(item):
                raise TokenizationError(
                    f"the tokenizer of {self.name!r} does not know {_listed(unknown)} in {item.text!r}; use "
                    "words of its vocabulary."
                )
        return encoded

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        for text in texts:
            if not isinstance(text, str):
                raise TokenizationError(f"a prompt is a string; got {type(text).__name__}: {text!r}.")
        if not texts:
            return []
        is_fast = bool(getattr(self.tokenizer, "is_fast", False))
        out = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=is_fast,
            verbose=False,
        )
        spans = out["offset_mapping"] if is_fast else [None] * len(texts)
        before = ((0, 0),) * len(self.bos)
        return [
            Encoded(text, (*self.bos, *ids), None if where is None else (*before, *map(tuple, where)))
            for text, ids, where in zip(texts, out["input_ids"], spans, strict=True)
        ]

    def _unknown_in(self, encoded: Encoded) -> list[str]:
        if self.unknown_id is None or self.unknown_id not in encoded.ids:
            return []
        if encoded.spans is None:
            return [word for word in encoded.text.split() if self.unknown_id in self._encode([word])[0].ids]
        where = [span for i, span in zip(encoded.ids, encoded.spans, strict=True) if i == self.unknown_id]
        return list(dict.fromkeys(encoded.text[start:end] for start, end in where))

    def unknown_words(self, text: str) -> list[str]:
        """Words of ``text`` that the tokenizer has no tokens for."""
        return self._unknown_in(self._encode([text])[0])

    def continuations(self, prompt: Encoded, words: Sequence[str]) -> list[tuple[int, ...] | None]:
        """Tokens that each word adds to the prompt as spelt, or ``None`` where the prompt's own change."""
        n = len(prompt.ids)
        longer = self._encode([prompt.text + word for word in words])
        return [item.ids[n:] if item.ids[:n] == prompt.ids else None for item in longer]

    def single_tokens(
        self, words: Iterable[str], before: str = "the", glue: str = " "
    ) -> dict[str, int | None]:
        """Each word's one token in a text ``before + glue + word``, or ``None`` where it is not one."""
        listed = list(dict.fromkeys(words))
        added = self.continuations(self._encode([before])[0], [glue + word for word in listed])
        return {word: self._only(ids) for word, ids in zip(listed, added, strict=True)}

    def _only(self, ids: tuple[int, ...] | None) -> int | None:
        return ids[0] if ids is not None and len(ids) == 1 and ids[0] != self.unknown_id else None

    def answer_tokens(self, prompt: Encoded, answers: Sequence[str]) -> tuple[int, ...]:
        """The one token of each answer as a continuation of the prompt (see :func:`spell_answer`).

        A tokenizer that makes a token of every space (characters, bytes) gets the answer without
        one. Raises :class:`TokenizationError` naming the answer and its tokens when it is not one
        known token.
        """
        spelt = [spell_answer(prompt.text, answer) for answer in answers]
        found: list[int] = []
        for answer, spelling, added in zip(answers, spelt, self.continuations(prompt, spelt), strict=True):
            token = self._only(added)
            if token is None and spelling != answer and self._splits_spaces:
                token = self._only(self.continuations(prompt, [answer])[0])
            if token is None:
                raise TokenizationError(self._not_one_token(prompt, spelling, added))
            found.append(token)
        return tuple(found)

    @cached_property
    def _splits_spaces(self) -> bool:
        """Whether a space is a token of its own even before the commonest of words."""
        added = self.continuations(self._encode(["a"])[0], [" a"])[0]
        return added is not None and len(added) == 2

    def _not_one_token(self, prompt: Encoded, spelling: str, added: tuple[int, ...] | None) -> str:
        what = f"answer {spelling!r} to {prompt.text!r}"
        if added is None:
            return (
                f"{what} changes the tokens of the prompt itself, {self._shown(prompt.ids)}; a prompt must "
                "end where a token ends: leave no space at its end, and none of the answer in it."
            )
        if not added:
            return f"{what} adds no token; give a word."
        if len(added) == 1:
            return f"{what} is not in the vocabulary of {self.name!r}; choose a word that is."
        return (
            f"{what} is {len(added)} tokens, {self._shown(added)}; an answer must be one token. Choose "
            "another word, or give token ids to interp.tasks.from_tokens."
        )

    def locate(self, encoded: Encoded, start: int, end: int) -> int:
        """Position of the last token of the characters ``start`` to before ``end``.

        A word of several tokens is found where it is complete. Raises :class:`TokenizationError`
        when no token lies there.
        """
        if encoded.spans is not None:
            inside = [i for i, (a, b) in enumerate(encoded.spans) if a < b and a < end and b > start]
        else:
            head = self._encode([encoded.text[:end]])[0].ids
            inside = [len(head) - 1] if encoded.ids[: len(head)] == head and len(head) > len(self.bos) else []
        if not inside:
            raise TokenizationError(
                f"no token of {encoded.text!r} ends with {encoded.text[start:end]!r}; its tokens are "
                f"{self._shown(encoded.ids)}."
            )
        return inside[-1]

    def str_tokens(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Each token as text; ids as digits where there is no tokenizer."""
        if not self.has_tokenizer:
            return tuple(str(i) for i in ids)
        return tuple(self._text_of(i) for i in ids)

    def _text_of(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = token_text(self.tokenizer, token)
        return self._texts[token]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of tokens; ids as digits where there is no tokenizer."""
        if not self.has_tokenizer:
            return " ".join(self.str_tokens(ids))
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def describe(self, ids: Sequence[int]) -> str:
        """Tokens for an error message: how many and which."""
        return f"{len(ids)} tokens, {self._shown(ids)}"

    def _shown(self, ids: Sequence[int]) -> str:
        return " ".join(repr(text) for text in self.str_tokens(ids))


def token_text(tokenizer: Any, token: int) -> str:
    """One token as the text it adds, its leading space included where the vocabulary knows of one."""
    piece = tokenizer.convert_ids_to_tokens(token)
    decoded = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    # SentencePiece drops the leading space of a lone token; its own spelling keeps it as "▁"
    if isinstance(piece, str) and piece.startswith(_PREFIX_MARK) and not decoded.startswith(" "):
        return " " + decoded
    return decoded if decoded or piece is None else str(piece)


def spell_answer(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: with a space where written English puts one.

    An answer that begins with white space is taken as it is. Another one gets a space after a
    letter, a digit or one of ``.,;:!?)``, except a digit after a digit, which goes on with a number.

    >>> spell_answer("John gave a drink to", "Mary"), spell_answer("from 1732 to 17", "45")
    (' Mary', '45')
    """
    if not prompt or not answer or not answer[0].isalnum():
        return answer
    last = prompt[-1]
    if last.isdigit() and answer[0].isdigit():
        return answer
    return " " + answer if last.isalnum() or last in ".,;:!?)" else answer


def _listed(words: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(word) for word in words[:most])
    return shown + (f" and {len(words) - most} more" if len(words) > most else "")
