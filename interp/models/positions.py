"""Which token of which prompt each column of a forward pass is.

Under a KV cache a forward sees only the newest columns; under padding a column is not a position.
Sites speak of positions (0 = a row's first real token, -1 = its last prompt token), so every
forward is described here once and hooks ask this description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import InterventionError, unknown_name
from interp.types import ALL, EACH, GENERATED, Position, Site, Span


@dataclass(frozen=True)
class Prompt:
    """The prompt part of a run: fixed at its first forward, also while tokens are generated."""

    n_columns: int
    offsets: Int[Tensor, "batch"]
    """Columns of padding before each row."""
    lengths: Int[Tensor, "batch"]
    """Real prompt tokens of each row."""
    repeats: int = 1
    """Rows made of each prompt, side by side: beams, or several continuations of one prompt."""

    @property
    def n_prompts(self) -> int:
        """Prompts as they were given, before they were repeated."""
        return len(self.lengths) // self.repeats

    def select(self, rows: Int[Tensor, "n"]) -> Prompt:
        """Some of the rows, in this order."""
        return Prompt(self.n_columns, self.offsets[rows], self.lengths[rows])

    @classmethod
    def from_mask(cls, batch: int, n_columns: int, mask: Tensor | None) -> Prompt:
        """From an attention mask [batch, n_columns]; ``None`` means no padding."""
        if mask is None:
            full = torch.full((batch,), n_columns, dtype=torch.long)
            return cls(n_columns, torch.zeros(batch, dtype=torch.long), full)
        real = mask[:, :n_columns].bool().cpu()
        return cls(n_columns, real.int().argmax(dim=1), real.sum(dim=1))


@dataclass(frozen=True)
class Columns:
    """The columns one forward computes, seen as positions of its prompt and its continuation."""

    prompt: Prompt
    start: int
    """First column of this forward in the whole sequence; > 0 under a KV cache."""
    n: int

    @property
    def batch(self) -> int:
        return len(self.prompt.lengths)

    @property
    def whole(self) -> Int[Tensor, "n"]:
        """Index of every column in the whole sequence."""
        return torch.arange(self.start, self.start + self.n)

    @property
    def real(self) -> Bool[Tensor, "batch n"]:
        """False on padding."""
        before = self.whole[None] < self.prompt.offsets[:, None]
        inside = self.whole[None] < (self.prompt.offsets + self.prompt.lengths)[:, None]
        return ~before & (inside | (self.whole[None] >= self.prompt.n_columns))

    @property
    def positions(self) -> Int[Tensor, "batch n"]:
        """Position of every column: real tokens count from 0; -1 on padding.

        Generated tokens go on from the row's prompt length, so a row padded on the right counts on
        as if the padding were not there.
        """
        generated = self.whole[None] - self.prompt.n_columns + self.prompt.lengths[:, None]
        inside = self.whole[None] - self.prompt.offsets[:, None]
        counted = torch.where(self.whole[None] >= self.prompt.n_columns, generated, inside)
        return torch.where(self.real, counted, -1)

    def select(self, site: Site, labels: Mapping[str, Tensor]) -> Bool[Tensor, "batch n"]:
        """Where ``site`` lies among these columns."""
        chosen = self.real
        if site.positions is not None:
            chosen = torch.zeros_like(chosen)
            for position in site.positions:
                chosen |= self._select_one(position, labels, site)
        if site.rows is not None:
            rows = torch.zeros(self.prompt.n_prompts, dtype=torch.bool)
            beyond = [row for row in site.rows if row >= len(rows)]
            if beyond:
                raise InterventionError(
                    f"site {site} names batch rows {beyond}, but the batch has {len(rows)} rows."
                )
            rows[list(site.rows)] = True
            chosen = chosen & rows.repeat_interleave(self.prompt.repeats)[:, None]
        return chosen

    def _select_one(self, position: Position, labels: Mapping[str, Tensor], site: Site) -> Tensor:
        lengths, at = self.prompt.lengths[:, None], self.positions
        if isinstance(position, Span):
            start = _from_end(0 if position.start is None else position.start, lengths)
            if position.stop is None:
                return self.real & (at >= start)
            return self.real & (at >= start) & (at < _from_end(position.stop, lengths))
        if isinstance(position, int):
            if position < 0 and bool((-position > lengths).any()):
                short = int((-position > lengths[:, 0]).int().argmax())
                raise InterventionError(
                    f"site {site} counts {-position} tokens back from the end, but row {short} has a prompt of "
                    f"{int(lengths[short, 0])} tokens."
                )
            return self.real & (at == _from_end(position, lengths))
        if position in (ALL, EACH):
            return self.real
        if position == GENERATED:
            return self.real & (at >= lengths)
        if position == "END" and position not in labels:
            return self.real & (at == lengths - 1)
        if position not in labels:
            raise InterventionError(
                unknown_name(f"position label in site {site}", position, [*labels, "END", ALL, GENERATED])
                + " Labels come from a task: pass labels=task.labels."
            )
        where = labels[position].cpu()
        if where.shape != (self.prompt.n_prompts,):
            raise InterventionError(
                f"label {position!r} has shape {tuple(where.shape)}; expected one position for each of the "
                f"{self.prompt.n_prompts} rows of the batch."
            )
        return self.real & (at == where.repeat_interleave(self.prompt.repeats)[:, None])


def _from_end(position: int, lengths: Tensor) -> Tensor | int:
    return lengths + position if position < 0 else position
