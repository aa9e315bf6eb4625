"""What a low-rank edit is trained on: prompts with completions, or rows of tokens with those that count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.positions import Prompt

Completions = Iterable[tuple[str, str]] | tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]
"""(prompt, completion) texts, where the completion's tokens are learned; or token rows and which of them are."""


@dataclass(frozen=True, eq=False)
class CompletionBatch:
    """Prompts padded on the left, completions behind them padded on the right."""

    tokens: Int[Tensor, "batch total"]
    mask: Bool[Tensor, "batch total"]
    prompt: Prompt
    scored: Bool[Tensor, "batch total"]
    """Tokens whose prediction counts."""


@dataclass(frozen=True, eq=False)
class _Row:
    prompt: Int[Tensor, " pos"]
    completion: Int[Tensor, " new"]
    scored: Bool[Tensor, " total"]


@dataclass(frozen=True, eq=False)
class CompletionRows:
    """All examples, each without padding."""

    rows: tuple[_Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, chosen: Sequence[int]) -> CompletionBatch:
        """Some of the examples."""
        rows = [self.rows[number] for number in chosen]
        before, after = (max(len(part) for part in side) for side in zip(*map(_parts, rows), strict=True))
        tokens = torch.zeros(len(rows), before + after, dtype=torch.long)
        mask = torch.ones(len(rows), before + after, dtype=torch.bool)
        scored = torch.zeros_like(mask)
        for i, row in enumerate(rows):
            start, stop = before - len(row.prompt), before + len(row.completion)
            tokens[i, start:before], tokens[i, before:stop] = row.prompt, row.completion
            mask[i, :start] = False
            scored[i, start:stop] = row.scored
        return CompletionBatch(tokens, mask, Prompt.from_mask(len(rows), before, mask), scored)


def _parts(row: _Row) -> tuple[Tensor, Tensor]:
    return row.prompt, row.completion


def read_completions(model: Model, examples: Completions) -> CompletionRows:
    """Examples as rows of tokens.

    Raises :class:`SteeringError` for none, for a completion without a token, and for rows of tokens where none
    counts, or only the first, which nothing predicts.
    """
    if isinstance(examples, tuple) and len(examples) == 2 and isinstance(examples[0], Tensor):
        rows = _token_rows(*examples)
    else:
        rows = [_text_row(model, number, example) for number, example in enumerate(examples)]
    if not rows:
        raise SteeringError("there are no examples to learn from; give at least one.")
    return CompletionRows(tuple(rows))


def _text_row(model: Model, number: int, example: object) -> _Row:
    if not isinstance(example, tuple | list) or [type(part) for part in example] != [str, str]:
        raise SteeringError(
            f"example {number} is a (prompt, completion) pair of texts; got {str(example)[:80]!r}. Token rows are "
            "given as one pair of tensors, (tokens, counts)."
        )
    prompt = model.to_tokens(example[0])[0].cpu()
    completion = model.to_tokens(example[1], prepend_bos=False)[0].cpu()
    if not len(completion) or not len(prompt):
        raise SteeringError(f"example {number} has an empty prompt or completion: {example!r}.")
    scored = torch.cat([torch.zeros(len(prompt)), torch.ones(len(completion))]).bool()
    return _Row(prompt, completion, scored)


def _token_rows(tokens: Tensor, counts: Tensor) -> list[_Row]:
    if tokens.ndim != 2 or tokens.is_floating_point() or counts.shape != tokens.shape:
        raise SteeringError(
            f"token rows are integer ids [row, pos] and a mask of that shape; got {list(tokens.shape)} and "
            f"{list(counts.shape)}."
        )
    counts = counts.bool().cpu()
    idle = [row for row, one in enumerate(counts) if not bool(one[1:].any())]
    if idle:
        raise SteeringError(f"no token that anything predicts counts in rows {idle[:10]}.")
    none = torch.zeros(0, dtype=torch.long)
    return [_Row(row, none, one) for row, one in zip(tokens.cpu(), counts, strict=True)]
