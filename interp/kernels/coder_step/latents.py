"""Sparse latents: which latents of a coder fire in each row, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backend import kernel_runs
from interp.kernels.coder_step.grouping import find_starts, group_entries, list_rows

SPARSE_SHARE = 0.1
"""Sparse sums cost about ten times a dense product an entry (d_in 512, two cores)."""
GPU_SHARE = 0.02
"""The same for kernels: reading a vector for one entry against multiplying it on tensor cores (an estimate from an
H100's memory rate and its rate of products, not measured)."""
SMALL = 2**22
"""Numbers in a dense matrix below which a GPU's kernels run whatever the share: launches take the time."""


def kernels_run(*tensors: Tensor | None) -> bool:
    """Whether the step's operations on these tensors run as kernels."""
    return kernel_runs("coder step", tensors)


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
    _found: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was worked out of the places, shared by all that have them."""

    @property
    def n_rows(self) -> int:
        return len(self.starts) - 1

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def sparse_pays(self) -> bool:
        """Whether there are few enough entries for sums over them to be quicker than dense products."""
        size = self.n_rows * self.d_sae
        if kernels_run(self.values):
            return size <= SMALL or len(self.latents) <= GPU_SHARE * size
        return len(self.latents) <= SPARSE_SHARE * size

    @property
    def rows(self) -> Int[Tensor, " entry"]:
        """The row of every entry."""
        if "rows" not in self._found:
            self._found["rows"] = list_rows(self.starts, len(self.latents))
        rows: Tensor = self._found["rows"]
        return rows

    @property
    def by_latent(self) -> ByLatent:
        """The entries sorted by latent, rows rising within one; computed once."""
        if "by_latent" not in self._found:
            self._found["by_latent"] = self._sort()
        grouped: ByLatent = self._found["by_latent"]
        return grouped

    def _sort(self) -> ByLatent:
        if kernels_run(self.values):
            order, starts = group_entries(self.latents, self.d_sae)
            return ByLatent(order, self.rows[order], starts)
        order = self.latents.sort(stable=True).indices
        starts = torch.zeros(self.d_sae + 1, dtype=torch.long, device=self.device)
        torch.cumsum(torch.bincount(self.latents, minlength=self.d_sae), 0, out=starts[1:])
        return ByLatent(order, self.rows[order], starts)

    def with_values(self, values: Float[Tensor, " entry"]) -> Self:
        """The same entries with other values; the sort is shared, also where it is still to come."""
        return replace(self, values=values)

    def keep(self, kept: Bool[Tensor, " entry"]) -> Self:
        """Entries of which those not kept are gone, or, where no device shall be waited for, have value 0."""
        if kernels_run(self.values):
            return self.with_values(torch.where(kept, self.values, 0))
        return self.select(kept)

    def split(self, ends: Sequence[int]) -> Self:
        """Every row in parts, each of the latents before one of ``ends``: row ``row * n_parts + part``.

        For entries whose latents rise within a row, and ends that rise to ``d_sae``.
        """
        rows = self.rows * len(ends)
        for end in ends[:-1]:
            rows = rows + (self.latents >= end)
        grouped = self.by_latent
        return replace(
            self,
            starts=find_starts(rows, self.n_rows * len(ends)),
            _found={"rows": rows, "by_latent": replace(grouped, rows=rows[grouped.order])},
        )

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
        if kernels_run(values):
            starts = find_starts(rows, n_rows)
        else:
            starts = torch.zeros(n_rows + 1, dtype=torch.long, device=values.device)
            torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=starts[1:])
        return cls(values, flat - rows * d_sae, starts, d_sae, {"rows": rows})

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
        return type(self)(self.values[places], self.latents[places], starts, self.d_sae, {"rows": rows})

    def select_rows(self, first: int, last: int) -> Self:
        """Rows ``first`` to before ``last``."""
        begin, end = int(self.starts[first]), int(self.starts[last])
        starts = self.starts[first : last + 1] - begin
        return type(self)(self.values[begin:end], self.latents[begin:end], starts, self.d_sae)

    def active_counts(self) -> Int[Tensor, " d_sae"]:
        """In how many rows each latent is above zero."""
        if kernels_run(self.values):
            counts = torch.zeros(self.d_sae, dtype=torch.long, device=self.device)
            return counts.index_add(0, self.latents, (self.values > 0).long())
        return torch.bincount(self.latents[self.values > 0], minlength=self.d_sae)
