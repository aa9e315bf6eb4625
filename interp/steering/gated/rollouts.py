"""Prompts with continuations of the unsteered model: text on which steered and unsteered runs are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.positions import Prompt
from interp.models.text_data import Prompts
from interp.steering.gated.scored import read_rows


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Prompts, padded on the left, and a continuation of each.

    Raises :class:`SteeringError` for sizes that do not fit and a prompt with no continuation.
    """

    tokens: Int[Tensor, "row total"]
    """Prompt columns, then continuation."""
    mask: Bool[Tensor, "row prompt"]
    """Which prompt columns are real."""
    scored: Bool[Tensor, "row new"]
    """Which tokens of the continuation count: none after its end."""

    def __post_init__(self) -> None:
        n, total = self.tokens.shape
        if self.mask.shape[0] != n or self.scored.shape != (n, total - self.mask.shape[1]):
            raise SteeringError(
                f"tokens {list(self.tokens.shape)}, prompt mask {list(self.mask.shape)} and scored "
                f"{list(self.scored.shape)} do not fit together."
            )
        if not bool(self.scored.any(1).all()):
            raise SteeringError("a prompt has no continuation that counts.")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_prompt(self) -> int:
        """Columns of prompts."""
        return self.mask.shape[1]

    def select(self, rows: Int[Tensor, " n"]) -> Rollouts:
        """Some rows, in this order."""
        return Rollouts(self.tokens[rows], self.mask[rows], self.scored[rows])

    def batches(self, size: int) -> Iterator[Rollouts]:
        """Consecutive rows, ``size`` at a time."""
        for rows in torch.arange(len(self)).split(size):
            yield self.select(rows)

    def continuing(self, model: Model) -> AbstractContextManager[None]:
        """Forwards inside the block take the continuation as generated."""
        return model.continuing(Prompt.from_mask(len(self), self.n_prompt, self.mask))

    def logits(self, model: Model) -> Float[Tensor, "row new d_vocab"]:
        """Of every token of the continuation, by whatever acts on the model. Call it inside :meth:`continuing`."""
        mask = torch.cat([self.mask, torch.ones_like(self.scored)], dim=1)
        columns = torch.arange(self.n_prompt - 1, self.tokens.shape[1] - 1)
        return model(self.tokens, mask, keep_columns=columns)

    def mean(self, values: Float[Tensor, "row new"]) -> Float[Tensor, " row"]:
        """Mean over the tokens that count."""
        weight = self.scored.to(values)
        return (values * weight).sum(1) / weight.sum(1)


def continue_prompts(
    model: Model,
    prompts: Prompts,
    *,
    n_tokens: int = 16,
    temperature: float = 1.0,
    end: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Rollouts:
    """Sample a continuation of every prompt from the unsteered model; whole after a token ``end``.

    ``end=None`` is the tokenizer's end of text, if it has one. The global random state is left as it was; another
    ``batch_size`` draws other continuations. Raises :class:`SteeringError` for no prompts and a temperature not above
    0, and :class:`ModelError` where they do not fit the context.
    """
    if not 0 < temperature < float("inf"):
        raise SteeringError(f"the temperature is above 0 and finite; got {temperature}.")
    rows = read_rows(model, prompts)
    tokens, mask = pad_left(rows)
    end = getattr(model.tokenizer, "eos_token_id", None) if end is None else end
    devices = [model.device] if model.device.type == "cuda" else []
    parts: list[Tensor] = []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for some in torch.arange(len(rows)).split(batch_size):
            found = model.generate(
                tokens[some],
                n_tokens,
                mask[some],
                do_sample=True,
                temperature=temperature,
                top_k=0,
                eos_token_id=end,
            )[:, tokens.shape[1] :].cpu()
            parts.append(torch.nn.functional.pad(found, (0, n_tokens - found.shape[1])))
    new = torch.cat(parts)
    scored = torch.ones_like(new, dtype=torch.bool)
    if end is not None:
        scored = (new == end).long().cumsum(1) - (new == end).long() == 0
    return Rollouts(torch.cat([tokens, new], dim=1), mask, scored)


def pad_left(
    rows: Sequence[Int[Tensor, " _"]],
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Prompts as one batch that generation can go on from, and its mask."""
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, True
    return tokens, mask
