"""Neutral text: what doses and side effects are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.models.text_data import Prompts, encode_item, open_items

N_ROWS = 64
LENGTH = 64


@dataclass(frozen=True, eq=False)
class NeutralText:
    """Rows of tokens, each whole: no padding. Raises :class:`SteeringError` without one of two tokens."""

    rows: tuple[Int[Tensor, " _"], ...]
    name: str
    """What it is, in a few words."""

    def __post_init__(self) -> None:
        short = [number for number, row in enumerate(self.rows) if len(row) < 2]
        if not self.rows or short:
            raise SteeringError(
                f"neutral text needs rows of at least two tokens; got {len(self.rows)} rows, too short {short[:10]}."
            )

    @property
    def digest(self) -> str:
        """Of its tokens."""
        found = hashlib.blake2b(digest_size=8)
        for row in self.rows:
            found.update(len(row).to_bytes(8, "little") + row.cpu().numpy().tobytes())
        return found.hexdigest()

    def describe(self) -> str:
        """Name, size and digest."""
        return f"{self.name} ({len(self.rows)} rows, {sum(map(len, self.rows))} tokens, {self.digest})"

    def batches(self, size: int) -> Iterator[tuple[Int[Tensor, " batch"], Int[Tensor, "batch pos"]]]:
        """Batches of rows of one length: the rows' numbers and their tokens."""
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(self.rows):
            by_length.setdefault(len(row), []).append(number)
        for numbers in by_length.values():
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                yield torch.tensor(part), torch.stack([self.rows[number] for number in part])


def read_neutral(
    model: Model,
    data: Prompts | NeutralText | None = None,
    *,
    n: int = N_ROWS,
    length: int = LENGTH,
    seed: int = 0,
    text_column: str = "text",
    name: str | None = None,
) -> NeutralText:
    """The first ``n`` rows of ``data``, each cut to ``length`` tokens.

    ``None`` is text of the generated world, for models that read its vocabulary. Raises
    :class:`SteeringError` for another model without data.
    """
    if isinstance(data, NeutralText):
        return data
    length = min(length, model.traits.n_ctx)
    if data is None:
        if not reads_world(model):
            raise SteeringError(
                f"model {model.name!r} does not read the generated world's words; give neutral text of its own: texts, "
                "tokens or a data set."
            )
        from interp.tasks.world import generate_tokens

        return NeutralText(tuple(generate_tokens(n, length, seed=seed)), f"generated text, seed {seed}")
    rows: list[Tensor] = []
    for item in open_items(data, text_column):
        rows += [row[:length] for row in encode_item(model, item)]
        if len(rows) >= n:
            break
    kept = tuple(row for row in rows[:n] if len(row) > 1)
    return NeutralText(kept, name or f"{type(data).__name__} of prompts")


def reads_world(model: Model) -> bool:
    """Whether the model's tokenizer is the generated world's."""
    from interp.tasks.world import token_ids

    return model.tokenizer is not None and model.tokenizer.get_vocab() == dict(token_ids())
