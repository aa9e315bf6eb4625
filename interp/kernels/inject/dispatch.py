"""Injection through whatever suits: its kernels or plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.inject.patches import Columns, DirectionPatch, Patch
from interp.kernels.inject.reference import add_updates_reference, start_rows_reference
from interp.kernels.norm import Norm

MAX_D_MODEL = 16384
"""Entries of a row that one program holds."""


def inject_runs(tensors: Sequence[Tensor | None]) -> bool:
    """Whether streams that are made of these tensors are made by kernels."""
    floats = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
    refusal = ""
    if len({tensor.dtype for tensor in floats}) > 1:
        refusal = f"its inputs are of several dtypes: {sorted({str(tensor.dtype) for tensor in floats})}"
    elif floats[0].shape[-1] > MAX_D_MODEL:
        refusal = f"d_model is {floats[0].shape[-1]}, above {MAX_D_MODEL}"
    return kernel_runs("inject", tensors, refusal=refusal)


def start_rows(
    base: Float[Tensor, "prompt pos d_model"],
    prompts: Int[Tensor, " row"],
    columns: Columns,
    patch: Patch | None = None,
    norm: Norm | None = None,
) -> tuple[Float[Tensor, "row n_columns d_model"], Float[Tensor, "row n_columns d_model"] | None]:
    """The residual streams of rows that begin, and those through the norm of the sublayer that reads them.

    A row is its prompt's stream in ``base`` at its columns, with a patch written at its patched places.
    ``prompts`` and ``columns`` (a tensor, or a slice with start and stop) index ``base`` and the patch's tables
    alike. Without ``norm`` the second result is ``None``.

    Half precision rounds once, after everything is added up in fp32. Differentiable in every floating-point
    input, with equal bits for equal inputs. Raises :class:`KernelError` for shapes that do not fit.
    """
    _check(base, prompts, columns, patch, norm)
    given = _tensors(base, prompts, columns, patch, norm)
    if not inject_runs(given):
        return start_rows_reference(base, prompts, columns, patch, norm)
    from interp.kernels.inject import ops

    at, start, stop = (None, columns.start, columns.stop) if isinstance(columns, slice) else (columns, 0, 0)
    new, old, where = (None, None, None) if patch is None else (patch.new, patch.old, patch.where)
    part, directions = (patch.part, patch.directions) if isinstance(patch, DirectionPatch) else (None, None)
    resid, normed = ops.start(
        base, prompts, at, start, stop, where, new, old, part, directions, *_parts_of(norm)
    )
    return resid, None if norm is None else normed


def add_updates(
    resid: Float[Tensor, "*rest d_model"],
    updates: Sequence[Float[Tensor, "*rest d_model"]],
    norm: Norm | None = None,
) -> tuple[Float[Tensor, "*rest d_model"], Float[Tensor, "*rest d_model"] | None]:
    """Residual streams of rows in flight with one update or two added, and their norm, in one pass.

    Two updates are those of blocks whose attention and MLP run in parallel. Without ``norm`` the second result
    is ``None``. Raises :class:`KernelError` for any other number of updates, or of another shape.
    """
    if len(updates) not in (1, 2):
        raise KernelError(f"a stream gets one update or two in one pass; got {len(updates)}.")
    for update in updates:
        if update.shape != resid.shape:
            raise KernelError(
                f"an update of shape {tuple(update.shape)} for streams of {tuple(resid.shape)}."
            )
    _check_norm(resid.shape[-1], norm)
    if not inject_runs([resid, *updates, *_weights(norm)]):
        return add_updates_reference(resid, updates, norm)
    from interp.kernels.inject import ops

    second = updates[1] if len(updates) == 2 else None
    after, normed = ops.updates(resid, updates[0], second, *_parts_of(norm))
    return after, None if norm is None else normed


def _tensors(
    base: Tensor, prompts: Tensor, columns: Columns, patch: Patch | None, norm: Norm | None
) -> list[Tensor | None]:
    found: list[Tensor | None] = [base, prompts, *_weights(norm)]
    if isinstance(columns, Tensor):
        found.append(columns)
    if patch is not None:
        found += [patch.new, patch.old, patch.where]
    if isinstance(patch, DirectionPatch):
        found += [patch.directions, patch.part]
    return found


def _weights(norm: Norm | None) -> Iterable[Tensor | None]:
    return () if norm is None else (norm.gain, norm.bias)


def _parts_of(norm: Norm | None) -> tuple[Tensor | None, Tensor | None, str, float]:
    """Gain, bias, kind and epsilon, as operations take them."""
    if norm is None:
        return None, None, "none", 0.0
    if norm.kind == "layernorm":
        return norm.gain, norm.bias, "layernorm", norm.eps
    return norm.gain, None, "rmsnorm_plus_one" if norm.plus_one else "rmsnorm", norm.eps


def _check_norm(d_model: int, norm: Norm | None) -> None:
    for weight in _weights(norm):
        if weight is not None and len(weight) != d_model:
            raise KernelError(f"a norm over {len(weight)} entries does not fit streams of {d_model}.")


def _check(base: Tensor, prompts: Tensor, columns: Columns, patch: Patch | None, norm: Norm | None) -> None:
    _check_norm(base.shape[2], norm)
    if isinstance(columns, slice):
        start, stop = columns.start, columns.stop
        if (
            start is None
            or stop is None
            or columns.step not in (None, 1)
            or not 0 <= start <= stop <= base.shape[1]
        ):
            raise KernelError(
                f"columns are a slice start:stop within the {base.shape[1]} of the base run; got {columns}."
            )
        n_columns = stop - start
    else:
        n_columns = columns.shape[1]
        if len(columns) != len(prompts):
            raise KernelError(f"columns of {len(columns)} rows for {len(prompts)} rows' prompts.")
    if patch is None:
        return
    for name, table in (("new", patch.new), ("old", patch.old)):
        if table is not None and table.shape[:2] != base.shape[:2]:
            raise KernelError(
                f"the patch's table {name!r} has {tuple(table.shape[:2])} prompts and columns; the base run has "
                f"{tuple(base.shape[:2])}."
            )
    if patch.where is not None and patch.where.shape != (len(prompts), n_columns):
        raise KernelError(
            f"patched places of shape {tuple(patch.where.shape)} for {len(prompts)} rows of {n_columns} columns."
        )
    rest = patch.new.shape[2:] if isinstance(patch, DirectionPatch) else base.shape[2:]
    for name, table in (("new", patch.new), ("old", patch.old)):
        if table is not None and table.shape[2:] != rest:
            raise KernelError(
                f"the patch's table {name!r} holds {tuple(table.shape[2:])} for each prompt and column; expected "
                f"{tuple(rest)}."
            )
    if not isinstance(patch, DirectionPatch):
        return
    n, rank, d_model = patch.directions.shape
    fits = n in (1, patch.new.shape[2]) and rank == patch.new.shape[3] and d_model == base.shape[2]
    if not fits or len(patch.part) != len(prompts):
        raise KernelError(
            f"directions {tuple(patch.directions.shape)} and parts of {len(patch.part)} rows do not fit a table "
            f"{tuple(patch.new.shape)}, {len(prompts)} rows and streams of {base.shape[2]}: directions are "
            "[1 or part, rank, d_model]."
        )
