"""What injection computes, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.kernels.inject.patches import Columns, Patch, PositionPatch
from interp.kernels.norm import Norm, normalise


def start_rows_reference(
    base: Float[Tensor, "prompt pos d_model"],
    prompts: Int[Tensor, " row"],
    columns: Columns,
    patch: Patch | None = None,
    norm: Norm | None = None,
) -> tuple[Float[Tensor, "row n_columns d_model"], Float[Tensor, "row n_columns d_model"] | None]:
    """See :func:`interp.kernels.inject.start_rows`."""
    resid = _take(base, prompts, columns)
    if patch is not None:
        written = _write(resid, patch, prompts, columns)
        resid = written if patch.where is None else torch.where(patch.where[..., None], written, resid)
    return resid, None if norm is None else normalise(resid, norm)


def add_updates_reference(
    resid: Float[Tensor, "*rest d_model"],
    updates: Sequence[Float[Tensor, "*rest d_model"]],
    norm: Norm | None = None,
) -> tuple[Float[Tensor, "*rest d_model"], Float[Tensor, "*rest d_model"] | None]:
    """See :func:`interp.kernels.inject.add_updates`."""
    for update in updates:
        resid = resid + update
    return resid, None if norm is None else normalise(resid, norm)


def _write(resid: Tensor, patch: Patch, prompts: Tensor, columns: Columns) -> Tensor:
    new = _take(patch.new, prompts, columns)
    if isinstance(patch, PositionPatch) and patch.old is None:
        return new
    change = new if patch.old is None else new - _take(patch.old, prompts, columns)
    if isinstance(patch, PositionPatch):
        return resid + change
    part = patch.part[:, None, None, None].expand(*change.shape[:2], 1, change.shape[3])
    coefficients = change.gather(2, part)[:, :, 0]
    which = torch.zeros_like(patch.part) if len(patch.directions) == 1 else patch.part
    return resid + coefficients @ patch.directions[which]


def _take(
    table: Shaped[Tensor, "prompt pos ..."], prompts: Tensor, columns: Columns
) -> Shaped[Tensor, "row n ..."]:
    if isinstance(columns, slice):
        return table[:, columns][prompts]
    return table[prompts[:, None], columns]
