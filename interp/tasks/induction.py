"""Induction: random tokens and again the same, "... A B ... A" -> "B".

Elhage et al. 2021, "A mathematical framework for transformer circuits"; Olsson et al. 2022,
"In-context learning and induction heads" (arXiv 2209.11895).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from interp.errors import TaskError, unknown_name
from interp.tasks.pairs import EncodedPair
from interp.tasks.tokenize import Encoder

CORRUPTIONS = ("break", "answer")


def make_induction(
    encoder: Encoder,
    n: int,
    rng: Random,
    *,
    length: int = 12,
    corrupted: str = "break",
    vocab: Sequence[int] | None = None,
) -> list[EncodedPair]:
    """Pairs of ``2 * length - 1`` tokens (BOS aside): a random sequence, and again all but its last.

    The answer is that last token. Labels: ``A1`` the first occurrence of the last prompt token,
    ``B1`` the token behind it (the answer), ``REPEAT`` where the second copy begins, ``END``.
    ``corrupted``: ``"break"`` fills the first copy with other random tokens, so that nothing repeats,
    the wrong answer being the token now at B1; ``"answer"`` changes the token at B1 alone, so that
    the wrong answer becomes the right one. Tokens are drawn without repeats from ``vocab``, by
    default all of the vocabulary that is printable text and not special. A model without a
    tokenizer will do.
    """
    if corrupted not in CORRUPTIONS:
        raise TaskError(unknown_name("corrupted prompt of task 'induction'", str(corrupted), CORRUPTIONS))
    if length < 2:
        raise TaskError(f"task 'induction' needs a sequence of at least 2 tokens; got length={length}.")
    tokens = _drawable(encoder) if vocab is None else _checked_vocab(encoder, vocab)
    spares = length if corrupted == "break" else 1
    if len(tokens) < length + spares:
        raise TaskError(
            f"task 'induction' with length={length} draws {length + spares} different tokens; the "
            f"vocabulary has {len(tokens)} to draw from. Lower the length."
        )
    found: dict[tuple[int, ...], EncodedPair] = {}
    misses = 0
    while len(found) < n:
        drawn = rng.sample(tokens, length + spares)
        pair = _make_pair(encoder, drawn[:length], drawn[length:])
        misses = misses + 1 if pair.clean in found else 0
        if misses > 200 + 20 * len(found):
            raise TaskError(
                f"task 'induction' was asked for {n} different prompts, but {len(tokens)} tokens make only "
                f"{len(found)} of length {length}; ask for fewer, or for longer ones."
            )
        found.setdefault(pair.clean, pair)
    return list(found.values())


def _make_pair(encoder: Encoder, sequence: Sequence[int], spares: Sequence[int]) -> EncodedPair:
    first = [*sequence[: len(sequence) - len(spares)], *spares]
    clean = (*encoder.bos, *sequence, *sequence[:-1])
    corrupted = (*encoder.bos, *first, *sequence[:-1])
    start, length = len(encoder.bos), len(sequence)
    labels = {
        "A1": start + length - 2,
        "B1": start + length - 1,
        "REPEAT": start + length,
        "END": len(clean) - 1,
    }
    return EncodedPair(
        clean,
        corrupted,
        answers=(sequence[-1],),
        wrong=(first[-1],),
        labels=labels,
        clean_text=encoder.decode(clean),
        corrupted_text=encoder.decode(corrupted),
        info={"length": length, "sequence": tuple(sequence), "corrupted": tuple(first)},
    )


def _drawable(encoder: Encoder) -> list[int]:
    if encoder.d_vocab is None:
        raise TaskError(
            "task 'induction' does not know the vocabulary: the model has neither a tokenizer nor "
            "traits.d_vocab; give token ids as vocab=[...]."
        )
    ids = range(encoder.d_vocab)
    if not encoder.has_tokenizer:
        return list(ids)
    special = set(encoder.tokenizer.all_special_ids)
    # a tokenizer may know fewer tokens than the padded embedding has rows
    known = [i for i in ids[: len(encoder.tokenizer)] if i not in special]
    texts = encoder.str_tokens(known)
    return [
        i
        for i, text in zip(known, texts, strict=True)
        if text.strip() and text.isprintable() and "�" not in text
    ]


def _checked_vocab(encoder: Encoder, vocab: Sequence[int]) -> list[int]:
    listed = list(dict.fromkeys(int(i) for i in vocab))
    limit = encoder.d_vocab
    beyond = [i for i in listed if i < 0 or (limit is not None and i >= limit)]
    if beyond:
        raise TaskError(f"vocab holds ids outside the vocabulary of {limit} tokens: {beyond[:8]}.")
    return listed
