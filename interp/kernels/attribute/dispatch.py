"""Attribution's sums, run as kernels where they can be."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.attribute import reference
from interp.kernels.backend import kernel_runs

_MOST_AXES = 3
_MOST_ROWS = 2**30


def attribute_rows(
    source: Float[Tensor, "*rest d"] | None,
    base: Float[Tensor, "*rest d"] | None,
    gradient: Float[Tensor, "..."],
    *,
    weights: Float[Tensor, " point"] | None = None,
    mask: Bool[Tensor, "*#rest"] | None = None,
) -> Float[Tensor, "*rest"]:
    """``sum_d (source - base) * gradient``, in fp32 at least; what is not given counts as 0.

    With ``weights`` the gradient is [point, *rest, d] and its weighted sum over points is taken; they are
    constants, without a gradient. Where ``mask`` is false the result is 0, whatever stands there.

    Raises :class:`KernelError` for shapes that do not fit, and where neither source nor base is given.
    """
    shape = _check("attribute_rows", source, base, gradient, weights)
    if mask is not None:
        mask = _spread("attribute_rows", "mask", mask, shape[:-1])
    refusal = "" if len(shape) - 1 <= _MOST_AXES else f"it takes at most {_MOST_AXES} axes beside d"
    if kernel_runs("attribute_rows", (source, base, gradient), refusal=refusal or _too_many(shape[:-1])):
        from interp.kernels.attribute import ops

        return ops.attribute_rows(source, base, gradient, _as_fp32(weights), mask)
    return reference.sum_rows(source, base, gradient, weights, mask)


def attribute_units(
    source: Float[Tensor, "batch pos *n d"] | None,
    base: Float[Tensor, "batch pos *n d"] | None,
    gradient: Float[Tensor, "..."],
    *,
    weights: Float[Tensor, " point"] | None = None,
    sets: Bool[Tensor, "where batch pos"] | None = None,
    columns: Int[Tensor, "where batch"] | None = None,
) -> Float[Tensor, "where batch *n d"]:
    """``(source - base) * gradient`` of every unit, added up over sets of columns, in fp32 at least.

    ``columns`` are sets of one column in each prompt, -1 for none; without either all columns together are the
    one set. ``weights`` as of :func:`attribute_rows`. What stands in columns of no set does not matter. Over a
    whole batch at once: its prompts as columns of one, ``x.reshape(1, batch * pos, n, d)``.

    Raises :class:`KernelError` for shapes that do not fit, for sets and columns both, and where neither source
    nor base is given.
    """
    shape = _check("attribute_units", source, base, gradient, weights)
    if len(shape) not in (3, 4):
        raise KernelError(
            f"attribute_units: got shape {shape}; expected [batch, pos, d] or [batch, pos, n, d]."
        )
    if sets is not None and columns is not None:
        raise KernelError("attribute_units: got sets and columns; give one of them.")
    chosen, expected = (sets, shape[:2]) if columns is None else (columns, shape[:1])
    if chosen is not None and tuple(chosen.shape[1:]) != expected:
        raise KernelError(
            f"attribute_units: got {'sets' if columns is None else 'columns'} of shape {tuple(chosen.shape)}; "
            f"expected [where, {', '.join(map(str, expected))}]."
        )
    flat = len(shape) == 3
    if flat:
        source, base = (None if x is None else x.unsqueeze(-2) for x in (source, base))
        gradient = gradient.unsqueeze(-2)
    n_where = 1 if chosen is None else len(chosen)
    refusal = _too_many((n_where, shape[0], gradient.shape[-2], -(-shape[-1] // 128)))
    if kernel_runs("attribute_units", (source, base, gradient), refusal=refusal):
        from interp.kernels.attribute import ops

        found = ops.attribute_units(source, base, gradient, _as_fp32(weights), sets, columns)
    else:
        found = reference.sum_columns(source, base, gradient, weights, sets, columns)
    return found.squeeze(-2) if flat else found


def _check(
    name: str, source: Tensor | None, base: Tensor | None, gradient: Tensor, weights: Tensor | None
) -> tuple[int, ...]:
    """The shape of a change. Raises :class:`KernelError` where the others do not fit it."""
    found = source if source is not None else base
    if found is None:
        raise KernelError(f"{name}: neither a source nor a base was given; expected at least one of them.")
    shape = tuple(found.shape)
    expected = shape if weights is None else (len(weights), *shape)
    if base is not None and tuple(base.shape) != shape:
        raise KernelError(f"{name}: source is {shape} and base {tuple(base.shape)}; expected one shape.")
    if tuple(gradient.shape) != expected or not shape:
        raise KernelError(
            f"{name}: the gradient is {tuple(gradient.shape)}; expected {expected}, the change's shape."
        )
    return shape


def _spread(name: str, what: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return value.expand(shape)
    except RuntimeError as error:
        raise KernelError(
            f"{name}: {what} is {tuple(value.shape)}; expected {shape}, or 1 on some of these axes."
        ) from error


def _too_many(sizes: tuple[int, ...]) -> str:
    total = 1
    for size in sizes:
        total *= size
    return "" if total < _MOST_ROWS else f"{total} sums are more than 2^30"


def _as_fp32(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.detach().to(torch.float32).contiguous()
