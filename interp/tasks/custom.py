"""Tasks of your own: from token tensors or from lists of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import TaskError, TokenizationError
from interp.tasks.base import NO_TOKEN, PromptPairs
from interp.tasks.pairs import EncodedPair, PairDraft, assemble_task, check_sides, encode_pair
from interp.tasks.tokenize import Encoder

Answers = str | Sequence[str]
"""One right answer of a prompt, or several."""
LabelSpec = str | int
"""Text of the clean prompt (``"Mary"``, ``"Mary#2"`` for its second occurrence), or a token's position."""


def from_tokens(
    clean: Int[Tensor, "batch pos"] | Sequence[Sequence[int]],
    corrupted: Int[Tensor, "batch pos"] | Sequence[Sequence[int]],
    answers: Int[Tensor, " batch"] | Int[Tensor, "batch k"] | Sequence[Any],
    wrong: Int[Tensor, " batch"] | Int[Tensor, "batch j"] | Sequence[Any],
    attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    labels: Mapping[str, Int[Tensor, " batch"] | Sequence[int] | int] | None = None,
    model: Any = None,
    name: str = "custom",
) -> PromptPairs:
    """A task from token ids; no tokenizer needed.

    ``answers`` and ``wrong`` are one id a prompt or several (rows filled with -1 in tensors, or
    ragged lists). ``attention_mask`` is False (0) on padding, which may stand on either side.
    ``labels`` are positions counted from a row's first real token, negative ones from its last; one
    number stands for every row. With a ``model`` ids are checked against its vocabulary and the
    tokens' text is kept for plots.

    Raises :class:`~interp.errors.TaskError` for an empty batch, shapes that do not agree, ids
    outside the vocabulary, a token both right and wrong, or a mask with holes.
    """
    clean_ids, corrupted_ids = _ids(clean, "clean"), _ids(corrupted, "corrupted")
    mask = None if attention_mask is None else torch.as_tensor(attention_mask).bool()
    right_ids, wrong_ids = _ragged(answers, "answers"), _ragged(wrong, "wrong")
    task = PromptPairs(clean_ids, corrupted_ids, right_ids, wrong_ids, attention_mask=mask, name=name)
    _check_mask(task)
    encoder = Encoder(model, prepend_bos=False)
    for i, (right, other) in enumerate(zip(task.answers.tolist(), task.wrong.tolist(), strict=True)):
        check_sides(
            [t for t in right if t != NO_TOKEN], [t for t in other if t != NO_TOKEN], encoder, f"prompt {i}"
        )
    _check_ids(task, encoder)
    texts = _describe(task, encoder) if encoder.has_tokenizer else {}
    return PromptPairs(
        task.clean,
        task.corrupted,
        task.answers,
        task.wrong,
        attention_mask=None if mask is None or bool(mask.all()) else mask,
        labels={label: _positions(label, where, task) for label, where in (labels or {}).items()},
        name=name,
        **texts,
    )


def from_text(
    model: Any,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answers: Sequence[Answers],
    wrong: Sequence[Answers],
    labels: Mapping[str, LabelSpec | Sequence[LabelSpec]] | None = None,
    padding_side: str = "right",
    prepend_bos: bool | None = None,
    name: str = "custom",
) -> PromptPairs:
    """A task from texts, one clean and one corrupted prompt a row, of equal token length.

    ``model`` is a model with a tokenizer, or a tokenizer. Rows may differ in length and are padded
    on ``padding_side``. An answer is one token behind its prompt; " Mary" and "Mary" mean the same
    after a word (:func:`interp.tasks.tokenize.spell_answer`). ``labels`` name positions by a piece of
    the clean prompt's text (its last token is meant; ``"Mary#2"`` is the second "Mary", ``"Mary#-1"``
    the last) or by a position (negative ones from the end); one value stands for every row. ``END``
    is always there.

    Raises :class:`~interp.errors.TokenizationError` naming prompt and tokens where lengths differ or
    an answer is not one token, and :class:`~interp.errors.TaskError` for lists of unequal size.

    ::

        from_text(
            model,
            clean=["Mary and John left, so John met"],
            corrupted=["Mary and John left, so Mary met"],
            answers=["Mary"],
            wrong=["John"],
            labels={"IO": "Mary", "S1": "John#1", "S2": "John#2"},
        )
    """
    columns = {"clean": clean, "corrupted": corrupted, "answers": answers, "wrong": wrong}
    rows = _row_count(columns)
    per_row = {label: _spread(label, value, rows) for label, value in (labels or {}).items()}
    encoder = Encoder(model, prepend_bos)
    pairs = [
        encode_row(
            encoder,
            (clean[i], corrupted[i], answers[i], wrong[i]),
            {label: values[i] for label, values in per_row.items()},
            where=f"row {i}",
        )
        for i in range(rows)
    ]
    return assemble_task(encoder, pairs, name=name, padding_side=padding_side)


def encode_row(
    encoder: Encoder,
    cells: tuple[str, str, Answers, Answers],
    labels: Mapping[str, LabelSpec],
    *,
    where: str,
    info: Mapping[str, Any] | None = None,
) -> EncodedPair:
    """Encode one pair (clean, corrupted, answers, wrong) and find its labels; errors begin with ``where``."""
    clean, corrupted, answers, wrong = cells
    try:
        encoded = encoder.encode_many([clean, corrupted])
        spans = {label: _find(clean, spec) for label, spec in labels.items() if isinstance(spec, str)}
        draft = PairDraft(clean, corrupted, _several(answers), _several(wrong), spans, info=info or {})
        pair = encode_pair(encoder, draft, (encoded[0], encoded[1]))
        counted = {
            label: _within(spec, len(pair.clean))
            for label, spec in labels.items()
            if not isinstance(spec, str)
        }
    except (TokenizationError, TaskError) as error:
        raise type(error)(f"{where}: {error}") from None
    return replace(pair, labels={**pair.labels, **counted})


def _find(text: str, spec: str) -> tuple[int, int]:
    """Characters of the piece of ``text`` that a label names."""
    piece, mark, count = spec.rpartition("#")
    if mark and spec not in text and count.removeprefix("-").isdigit() and int(count) != 0:
        number = int(count)
    else:
        piece, number = spec, None
    starts = [i for i in range(len(text)) if piece and text.startswith(piece, i)]
    if not starts:
        raise TaskError(f"label text {piece!r} does not occur in prompt {text!r}.")
    if number is None:
        if len(starts) > 1:
            raise TaskError(
                f"label text {piece!r} occurs {len(starts)} times in prompt {text!r}; write "
                f"{piece + '#1'!r}, {piece + '#2'!r} ... or {piece + '#-1'!r} for the last."
            )
        number = 1
    if abs(number) > len(starts):
        raise TaskError(
            f"label text {piece!r} occurs {len(starts)} times in prompt {text!r}, not {abs(number)}."
        )
    start = starts[number - 1 if number > 0 else number]
    return start, start + len(piece)


def _within(position: int, length: int) -> int:
    if isinstance(position, bool) or not isinstance(position, int):
        raise TaskError(f"a label is a piece of the prompt's text or a position; got {position!r}.")
    if not -length <= position < length:
        raise TaskError(f"label position {position} lies outside a prompt of {length} tokens.")
    return position % length


def _several(answers: Answers) -> tuple[str, ...]:
    listed = tuple(answers) if isinstance(answers, list | tuple) else (answers,)
    if not listed or not all(isinstance(answer, str) for answer in listed):
        raise TaskError(f"an answer is a string or several strings; got {answers!r}.")
    return listed


def _row_count(columns: Mapping[str, Sequence[Any]]) -> int:
    for name, values in columns.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TaskError(
                f"{name} must be a list with one entry a prompt; got {type(values).__name__}: {values!r}."
            )
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise TaskError(f"a task needs as many entries in every list; got {listed}.")
    if sizes["clean"] == 0:
        raise TaskError("a task needs at least one pair of prompts; got empty lists.")
    return sizes["clean"]


def _spread(label: str, value: LabelSpec | Sequence[LabelSpec], rows: int) -> list[LabelSpec]:
    if isinstance(value, str | int):
        return [value] * rows
    if len(value) != rows:
        raise TaskError(
            f"label {label!r} has {len(value)} entries for {rows} prompts; give one a prompt, or one for all."
        )
    return list(value)


def _ids(values: Any, what: str) -> Tensor:
    try:
        ids = torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"{what} must be token ids [batch, pos], all rows equally long; got something else "
            f"({error}). Pad shorter rows and give attention_mask."
        ) from None
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TaskError(f"{what} must be integer token ids; got {ids.dtype}.")
    return ids.long()


def _ragged(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        if values.ndim not in (1, 2):
            raise TaskError(
                f"{what} must be [batch] or [batch, k] token ids; got shape {tuple(values.shape)}."
            )
        return _ids(values, what)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TaskError(f"{what} must be token ids, one or several a prompt; got {values!r}.")
    rows = [list(row) if isinstance(row, Iterable) and not isinstance(row, str) else [row] for row in values]
    width = max((len(row) for row in rows), default=0)
    return _ids([row + [NO_TOKEN] * (width - len(row)) for row in rows], what)


def _check_mask(task: PromptPairs) -> None:
    columns = torch.arange(task.clean.shape[1], device=task.clean.device)
    inside = (columns >= task.offsets[:, None]) & (columns <= task.end[:, None])
    holed = (inside != task.mask).any(dim=1).nonzero()[:, 0].tolist()
    if holed:
        raise TaskError(
            f"attention_mask of rows {holed} has padding between real tokens; padding stands on the left or "
            "on the right of a prompt."
        )


def _check_ids(task: PromptPairs, encoder: Encoder) -> None:
    limit = encoder.d_vocab
    for what in ("clean", "corrupted", "answers", "wrong"):
        ids = getattr(task, what)
        lowest = NO_TOKEN if what in ("answers", "wrong") else 0
        if int(ids.min()) < lowest or (limit is not None and int(ids.max()) >= limit):
            raise TaskError(
                f"{what} has token ids from {int(ids.min())} to {int(ids.max())}; expected 0 to "
                f"{'...' if limit is None else limit - 1}."
            )


def _describe(task: PromptPairs, encoder: Encoder) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, ids in (("clean", task.clean), ("corrupted", task.corrupted)):
        rows = [row[real].tolist() for row, real in zip(ids, task.mask, strict=True)]
        found[f"{side}_text"] = tuple(encoder.decode(row) for row in rows)
        found[f"{side}_str_tokens"] = tuple(encoder.str_tokens(row) for row in rows)
    return found


def _positions(label: str, where: Any, task: PromptPairs) -> Tensor:
    given = torch.as_tensor(where, device=task.clean.device)
    given = given.expand(len(task)) if given.ndim == 0 else given
    if given.shape != (len(task),) or given.is_floating_point():
        raise TaskError(
            f"label {label!r} must be one position for each of {len(task)} prompts; got {where!r}."
        )
    return torch.where(given < 0, given + task.lengths, given).long()
