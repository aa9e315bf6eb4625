"""All waves of a layer as one launch of a kernel takes them: tokens one after another, whatever their wave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.kernels.prefix_attention import QueryPlan, Rows, plan_queries
from interp.models.blocks.geometry import Geometry
from interp.models.blocks.waves import Wave


class Formation:
    """Rows in flight at their present columns. Made once and kept with the first wave until rows or columns change.

    It holds no wave: their residual streams are to go as soon as nobody needs them.
    """

    def __init__(self, rows: list[Rows]) -> None:
        self.rows = rows
        self._plans: dict[int | None, QueryPlan] = {}
        self._rotation: tuple[Tensor | None, Tensor | None] | None = None

    @classmethod
    def of(cls, waves: Sequence[Wave]) -> Formation:
        """The formation that these waves are in, the one made before where that still holds."""
        rows = [_rows_of(wave) for wave in waves]
        kept = waves[0].notes.formation
        if isinstance(kept, Formation) and kept._holds_for(rows):
            return kept
        waves[0].notes.formation = made = cls(rows)
        return made

    def _holds_for(self, rows: Sequence[Rows]) -> bool:
        return len(rows) == len(self.rows) and all(
            (a.start, a.stop) == (b.start, b.stop) and a.prompts is b.prompts and a.columns is b.columns
            for a, b in zip(rows, self.rows, strict=True)
        )

    def plan(self, geometry: Geometry, window: int | None) -> QueryPlan:
        """The kernel's plan for a sliding window."""
        if window not in self._plans:
            self._plans[window] = plan_queries(self.rows, geometry.real, window)
        return self._plans[window]

    def turns(self, waves: Sequence[Wave], geometry: Geometry) -> tuple[Tensor | None, Tensor | None]:
        """Cosine and sine of every token, [1, token, rotary]."""
        if geometry.cos is None or geometry.sin is None:
            return None, None
        if self._rotation is None:
            cos, sin = (
                join_tokens([wave.take(table) for wave in waves])[None]
                for table in (geometry.cos, geometry.sin)
            )
            self._rotation = cos, sin
        return self._rotation


def _rows_of(wave: Wave) -> Rows:
    columns = wave.columns if isinstance(wave.columns, Tensor) else None
    return Rows(wave.prompts, wave.start, wave.stop, columns)


def join_tokens(parts: Sequence[Shaped[Tensor, "_row _pos ..."]]) -> Shaped[Tensor, "token ..."]:
    """Tokens of several waves in one tensor; no copy where they stand one after another in one already."""
    first = parts[0]
    if len(parts) == 1:
        return first.flatten(0, 1)
    at, stride = first.storage_offset(), first.stride()[1:]
    in_line = not any(part.requires_grad for part in parts)
    for part in parts:
        in_line = (
            in_line
            and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            and part.storage_offset() == at
            and part.stride() == (part.shape[1] * stride[0], *stride)
        )
        at += part.shape[0] * part.shape[1] * stride[0]
    if not in_line:
        return torch.cat([part.flatten(0, 1) for part in parts])
    n_tokens = sum(part.shape[0] * part.shape[1] for part in parts)
    return first.as_strided((n_tokens, *first.shape[2:]), stride)


def split_tokens(
    tokens: Float[Tensor, "token ..."], sizes: Sequence[tuple[int, int]]
) -> list[Float[Tensor, "_row _pos ..."]]:
    """Each wave's part, [row, pos, ...] by the numbers of rows and columns."""
    parts = tokens.split([rows * n for rows, n in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]
