"""Which rows attend to a base run, and from which of its columns on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows that have keys of their own from ``start`` to ``stop`` and the base run's before."""

    prompts: Int[Tensor, " row"]
    """The prompt of the base run that each row changes."""
    start: int
    stop: int
    columns: Int[Tensor, "row query"] | None = None
    """Where each row asks, from ``start`` to ``stop``; ``None`` is at each of its own columns."""

    @property
    def n_keys(self) -> int:
        """Keys of each row's own."""
        return self.stop - self.start

    @property
    def n_queries(self) -> int:
        """Queries of each row."""
        return self.n_keys if self.columns is None else self.columns.shape[1]


def count_queries(rows: Sequence[Rows]) -> int:
    """Queries of all rows."""
    return sum(len(part.prompts) * part.n_queries for part in rows)


def count_keys(rows: Sequence[Rows]) -> int:
    """Keys of all rows' own."""
    return sum(len(part.prompts) * part.n_keys for part in rows)


def longest_prefix(rows: Sequence[Rows]) -> int:
    """Columns of the base run that any row reads."""
    return max([0, *(part.start for part in rows if len(part.prompts))])
