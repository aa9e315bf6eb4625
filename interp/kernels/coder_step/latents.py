"""Sparse latents: which latents of a coder fire in each row, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPARSE_SHARE = 0.1
"""Sparse sums cost about ten times a dense product an entry (d_in 512, two cores)."""


@dataclass(frozen=True, eq=False)
class ByLatent:
    """The entries of sparse latents grouped by latent: one sort that every weight gradient shares."""

    order: Int[Tensor, " entry"]
    """Which entry stands at each place."""
    rows: Int[Tensor, " entry"]
    """Its row."""
    starts: Int[Tensor, " d_sae_and_one"]
    """Where the entries of each latent begin, and the end."""


@dataclass(frozen=True, eq=False)
class SparseLatents:
    """Latents as entries (row, latent, value), row by row: compressed sparse rows.

    Entries of one row come in no order and name each latent once. A value may be zero: such an entry passes
    a gradient (to a threshold that it just missed) though nothing else.
    """

    values: Float[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    starts: Int[Tensor, " row_and_one"]
    """Where the entries of each row begin, and the end."""
    d_sae: int

    @property
    def n_rows(self) -> int:
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def sparse_pays(self) -> bool:
        """Whether there are few enough entries for sums over them to be quicker than dense products."""
        return len(self.latents) <= SPARSE_SHARE * self.n_rows * self.d_sae

    @cached_property
    def rows(self) -> Int[Tensor, " entry"]:
        """The row of every entry."""
        counts = self.starts.diff()
        return torch.repeat_interleave(counts, output_size=len(self.latents))

    @cached_property
    def by_latent(self) -> ByLatent:
        """The entries sorted by latent, rows rising within one; computed once."""
        order = self.latents.sort(stable=True).indices
        starts = torch.zeros(self.d_sae + 1, dtype=torch.long, device=self.device)
        torch.cumsum(torch.bincount(self.latents, minlength=self.d_sae), 0, out=starts[1:])
        return ByLatent(order, self.rows[order], starts)

    def with_values(self, values: Float[Tensor, " entry"]) -> Self:
        """The same entries with other values; the sort is kept."""
        found = replace(self, values=values)
        for name in ("rows", "by_latent"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        return found

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """A matrix with zeros between the entries; keeps the gradient."""
        dense = self.values.new_zeros(self.n_rows * self.d_sae)
        return dense.index_put((self.rows * self.d_sae + self.latents,), self.values).view(
            self.n_rows, self.d_sae
        )

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "row d_sae"]) -> Self:
        """The entries that are not zero; keeps the gradient of these."""
        return cls.from_mask(dense, dense != 0)

    @classmethod
    def from_mask(cls, dense: Float[Tensor, "row d_sae"], kept: Bool[Tensor, "row d_sae"]) -> Self:
        """The entries where ``kept`` is true."""
        flat = kept.reshape(-1).nonzero()[:, 0]
        return cls.from_flat(dense.reshape(-1)[flat], flat, dense.shape[0], dense.shape[1])

    @classmethod
    def from_flat(
        cls, values: Float[Tensor, " entry"], flat: Int[Tensor, " entry"], n_rows: int, d_sae: int
    ) -> Self:
        """From rising places in the flattened matrix."""
        rows = flat // d_sae
        starts = torch.zeros(n_rows + 1, dtype=torch.long, device=values.device)
        torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=starts[1:])
        found = cls(values, flat - rows * d_sae, starts, d_sae)
        found.__dict__["rows"] = rows
        return found

    @classmethod
    def from_top(cls, values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], d_sae: int) -> Self:
        """From the same number of latents in every row."""
        n, k = values.shape
        starts = torch.arange(0, n * k + 1, k, device=values.device) if k else values.new_zeros(n + 1).long()
        return cls(values.reshape(-1), latents.reshape(-1), starts, d_sae)

    def select(self, kept: Bool[Tensor, " entry"]) -> Self:
        """Some of the entries; keeps the gradient of these."""
        places = kept.nonzero()[:, 0]
        rows = self.rows[places]
        starts = torch.zeros_like(self.starts)
        torch.cumsum(torch.bincount(rows, minlength=self.n_rows), 0, out=starts[1:])
        found = type(self)(self.values[places], self.latents[places], starts, self.d_sae)
        found.__dict__["rows"] = rows
        return found

    def select_rows(self, first: int, last: int) -> Self:
        """Rows ``first`` to before ``last``."""
        begin, end = int(self.starts[first]), int(self.starts[last])
        starts = self.starts[first : last + 1] - begin
        return type(self)(self.values[begin:end], self.latents[begin:end], starts, self.d_sae)

    def active_counts(self) -> Int[Tensor, " d_sae"]:
        """In how many rows each latent is above zero."""
        return torch.bincount(self.latents[self.values > 0], minlength=self.d_sae)
