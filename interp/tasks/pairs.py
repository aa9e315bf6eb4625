"""From pairs of texts to :class:`PromptPairs`: encoding, checking, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.errors import TaskError, TokenizationError, unknown_name
from interp.tasks.base import NO_TOKEN, PromptPairs
from interp.tasks.metrics import Metric
from interp.tasks.tokenize import Encoded, Encoder

Span = tuple[int, int]


class MisalignedError(TokenizationError):
    """A clean and a corrupted prompt do not stand token by token beside each other."""


@dataclass(frozen=True)
class PairDraft:
    """A pair of prompts as text, before any tokenizer has seen it."""

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    spans: Mapping[str, Span] = field(default_factory=dict)
    """Label -> characters of ``clean``; the label stands at the last token of them."""
    corrupted_spans: Mapping[str, Span] | None = None
    """The same in ``corrupted``; where given, both must fall on the same position."""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedPair:
    """A pair of prompts as tokens of one length, with its answers and labelled positions."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    labels: Mapping[str, int]
    clean_text: str
    corrupted_text: str
    info: Mapping[str, Any] = field(default_factory=dict)


def encode_pair(
    encoder: Encoder, draft: PairDraft, encoded: tuple[Encoded, Encoded] | None = None
) -> EncodedPair:
    """Turn a draft into tokens; ``encoded`` holds its two prompts where they are encoded already.

    Raises :class:`TokenizationError` when the prompts differ in length, an answer is not one token,
    or a label falls on different positions in the two prompts; :class:`TaskError` when a token is
    both right and wrong.
    """
    clean, corrupted = encoded or encoder.encode_many([draft.clean, draft.corrupted])
    if len(clean.ids) != len(corrupted.ids):
        raise MisalignedError(
            "a clean and a corrupted prompt must have as many tokens.\n"
            f"  clean      {clean.text!r}: {encoder.describe(clean.ids)}\n"
            f"  corrupted  {corrupted.text!r}: {encoder.describe(corrupted.ids)}\n"
            "Choose words of equal token length."
        )
    tokens = encoder.answer_tokens(clean, (*draft.answers, *draft.wrong))
    n = len(draft.answers)
    answers, wrong = tuple(dict.fromkeys(tokens[:n])), tuple(dict.fromkeys(tokens[n:]))
    check_sides(answers, wrong, encoder, clean.text)
    labels = {label: encoder.locate(clean, *span) for label, span in draft.spans.items()}
    for label, span in (draft.corrupted_spans or {}).items():
        if encoder.locate(corrupted, *span) != labels[label]:
            raise MisalignedError(
                f"label {label!r} is token {labels[label]} of {clean.text!r} but token "
                f"{encoder.locate(corrupted, *span)} of {corrupted.text!r}; a position must mean the same in "
                "both."
            )
    labels.setdefault("END", len(clean.ids) - 1)
    return EncodedPair(
        clean.ids, corrupted.ids, answers, wrong, labels, clean.text, corrupted.text, draft.info
    )


def check_sides(answers: Sequence[int], wrong: Sequence[int], encoder: Encoder, where: str) -> None:
    """Raise :class:`TaskError` when a token is a right and a wrong answer at once, or one side is empty."""
    both = sorted(set(answers) & set(wrong))
    if both:
        raise TaskError(
            f"{', '.join(map(repr, encoder.str_tokens(both)))} is both a right and a wrong answer to "
            f"{where!r}; a metric of their difference would say nothing."
        )
    if not answers or not wrong:
        raise TaskError(f"every prompt needs a right and a wrong answer; {where!r} lacks one.")


def assemble_task(
    encoder: Encoder,
    pairs: Sequence[EncodedPair],
    *,
    name: str,
    seed: int | None = None,
    metric: Metric | None = None,
    padding_side: str = "right",
) -> PromptPairs:
    """Stack pairs into one task, padding shorter rows on ``padding_side``.

    Labels that only some rows have are left out. Raises :class:`TaskError` for no pairs or another
    padding side.
    """
    if padding_side not in ("left", "right"):
        raise TaskError(unknown_name("padding side", str(padding_side), ("left", "right")))
    if not pairs:
        raise TaskError(f"task {name!r} has no prompts; give at least one pair.")
    lengths = [len(pair.clean) for pair in pairs]
    left = padding_side == "left"
    clean, mask = _pad([pair.clean for pair in pairs], encoder.pad_id, left)
    corrupted, _ = _pad([pair.corrupted for pair in pairs], encoder.pad_id, left)
    shared = [label for label in pairs[0].labels if all(label in pair.labels for pair in pairs)]
    return PromptPairs(
        clean=clean,
        corrupted=corrupted,
        answers=_pad([pair.answers for pair in pairs], NO_TOKEN)[0],
        wrong=_pad([pair.wrong for pair in pairs], NO_TOKEN)[0],
        attention_mask=None if len(set(lengths)) == 1 else mask,
        labels={label: torch.tensor([pair.labels[label] for pair in pairs]) for label in shared},
        name=name,
        seed=seed,
        clean_text=tuple(pair.clean_text for pair in pairs),
        corrupted_text=tuple(pair.corrupted_text for pair in pairs),
        clean_str_tokens=tuple(encoder.str_tokens(pair.clean) for pair in pairs),
        corrupted_str_tokens=tuple(encoder.str_tokens(pair.corrupted) for pair in pairs),
        metric=metric,
        info=tuple(pair.info for pair in pairs),
    )


def _pad(rows: Sequence[Sequence[int]], fill: int, left: bool = False) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    filled = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        filled[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return filled, mask
