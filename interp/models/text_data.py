"""Reading prompts: the items of a data set, the tokens of an item, and prompts as one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ModelError
from interp.models.model import Model

Prompts = Iterable[Any] | Callable[[], Iterable[Any]]
"""A tensor of tokens [n, pos], a ``datasets.Dataset`` or ``IterableDataset``, an iterable of texts, of token
lists or tensors and of (tokens, mask) pairs, or a function that gives such an iterable anew at every call."""


def open_items(data: Prompts, text_column: str = "text", start: int = 0) -> Iterator[Any]:
    """Items of a data set from number ``start`` on: texts, token rows, token batches or (tokens, mask) pairs.

    A data set with columns gives its ``tokens`` / ``input_ids`` (without what its ``attention_mask`` leaves
    out), else its ``text_column``. Raises :class:`ModelError` for a tensor of another shape than [n, pos] and
    for a data set without such a column.
    """
    if isinstance(data, str):
        data = [data]
    if isinstance(data, Tensor):
        if data.ndim != 2:
            raise ModelError(f"a tensor of tokens must be [n, pos]; got shape {tuple(data.shape)}.")
        return iter(data[start:])
    found: Any = data() if callable(data) else data
    read = _reader(found, text_column)
    if start and isinstance(found, Sequence):
        return (read(found[number]) for number in range(start, len(found)))
    if start and hasattr(found, "select") and hasattr(found, "__len__"):
        # it refuses an empty selection at its end
        return map(read, found.select(range(start, len(found))) if start < len(found) else ())
    return map(read, islice(iter(found), start, None))


def _reader(data: Any, text_column: str) -> Callable[[Any], Any]:
    """From a row of a data set to its item; rows of any other iterable are items."""
    names = getattr(data, "column_names", None)
    if names is None:
        # a streamed data set learns its columns from its first row
        return lambda row: _read_columns(row, text_column) if isinstance(row, Mapping) else row
    _choose_column(names, text_column)
    return lambda row: _read_columns(row, text_column)


def _choose_column(names: Iterable[str], text_column: str) -> str:
    names = list(names)
    column = next((name for name in ("tokens", "input_ids", text_column) if name in names), None)
    if column is None:
        raise ModelError(
            f"the data set has columns {names}; expected 'tokens', 'input_ids' or {text_column!r}."
        )
    return column


def _read_columns(row: Mapping[str, Any], text_column: str) -> Any:
    found = row[_choose_column(row, text_column)]
    if isinstance(found, str):
        return found
    tokens = torch.as_tensor(found)
    mask = row.get("attention_mask")
    return tokens if mask is None else _unpadded(tokens, torch.as_tensor(mask))


def encode_item(model: Model, item: Any) -> list[Int[Tensor, " _"]]:
    """Tokens of every prompt of an item, each without its padding, on the CPU.

    Raises :class:`ModelError` for what is no item, and for a prompt without a token or with padding between
    its tokens.
    """
    if isinstance(item, str):
        return [model.to_tokens(item)[0].cpu()]
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, Tensor) for part in item):
        tokens, mask = (part[None] if part.ndim == 1 else part for part in item)
        if mask.shape != tokens.shape:
            raise ModelError(f"a mask has shape {tuple(mask.shape)}, its tokens {tuple(tokens.shape)}.")
        return [_unpadded(row, kept) for row, kept in zip(tokens.cpu(), mask.cpu(), strict=True)]
    try:
        tokens = torch.as_tensor(item).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"a prompt is a text, token ids or (tokens, mask); got {type(item).__name__}."
        ) from error
    if tokens.ndim not in (1, 2) or tokens.is_floating_point() or not tokens.numel():
        raise ModelError(
            f"a prompt is integer ids [pos] or [batch, pos] with at least one token; got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    return list((tokens if tokens.ndim == 2 else tokens[None]).long())


def _unpadded(tokens: Int[Tensor, " pos"], mask: Tensor) -> Int[Tensor, " real"]:
    real = mask.bool().nonzero()[:, 0]
    if not len(real):
        raise ModelError("a prompt has no real token: its attention mask leaves out every one.")
    if int(real[-1] - real[0]) + 1 != len(real):
        raise ModelError("a prompt has padding between its tokens; pad on the left or on the right only.")
    return tokens[real].long()


def pad_prompts(
    rows: Sequence[Int[Tensor, " _"]],
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
    """Prompts of unequal length as one batch, padded on the right, and its mask (``None`` without padding)."""
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    return tokens, None if bool(mask.all()) else mask


def read_batches(
    model: Model, data: Prompts, size: int, text_column: str = "text"
) -> Iterator[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]]:
    """Batches of prompts in their order: single prompts ``size`` at a time, batches as they are given."""
    if isinstance(data, Tensor) and data.ndim == 2:
        yield from ((data[start : start + size], None) for start in range(0, len(data), size))
        return
    pending: list[Any] = []
    for item in open_items(data, text_column):
        whole = isinstance(item, tuple) or (isinstance(item, Tensor) and item.ndim == 2)
        if whole and pending:
            yield _pad_items(model, pending)
            pending = []
        if isinstance(item, tuple):
            yield item
        elif whole:
            yield item, None
        else:
            pending.append(item)
        if len(pending) == size:
            yield _pad_items(model, pending)
            pending = []
    if pending:
        yield _pad_items(model, pending)


def _pad_items(model: Model, items: list[Any]) -> tuple[Tensor, Tensor | None]:
    if all(isinstance(item, str) for item in items):
        return model.to_padded_tokens(items)
    return pad_prompts([row for item in items for row in encode_item(model, item)])
