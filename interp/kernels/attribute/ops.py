"""The kernels as operators of torch, with their gradients; imported where a kernel runs."""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.attribute.reference import rows_backward
from interp.kernels.attribute.triton import launch_columns, launch_rows, launch_strips


@torch.library.custom_op("interp::attribute_rows", mutates_args=())
def attribute_rows(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Sums over the last axis; tensors are [rest, d], the gradient [point, rest, d] where there are weights."""
    return launch_rows(source, base, gradient, weights, mask)


@attribute_rows.register_fake
def _(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    rest = gradient.shape[int(weights is not None) : -1]
    return torch.empty(rest, dtype=torch.float32, device=gradient.device)


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    source, base, gradient, weights, mask = ctx.saved_tensors
    inside = None if mask is None else mask.unsqueeze(-1)
    return (*rows_backward(grad.unsqueeze(-1), source, base, gradient, weights, inside), None, None)


attribute_rows.register_autograd(_rows_backward, setup_context=_rows_setup)


@torch.library.custom_op("interp::attribute_units", mutates_args=())
def attribute_units(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    sets: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    """Sums over sets of columns, [where, batch, n, d]; tensors are [batch, pos, n, d]."""
    if columns is not None:
        return launch_columns(source, base, gradient, weights, columns)
    return launch_strips(source, base, gradient, weights, sets)


@attribute_units.register_fake
def _(
    source: Tensor | None,
    base: Tensor | None,
    gradient: Tensor,
    weights: Tensor | None,
    sets: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    chosen = sets if columns is None else columns
    n_where = 1 if chosen is None else chosen.shape[0]
    batch, _, n, d = gradient.shape[-4:]
    return torch.empty(n_where, batch, n, d, dtype=torch.float32, device=gradient.device)


def _units_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    source, base, gradient, weights, sets, columns = ctx.saved_tensors
    n_pos = gradient.shape[-3]
    if columns is not None:
        sets = columns.unsqueeze(-1) == torch.arange(n_pos, device=columns.device)
    if sets is None:
        spread, inside = grad[0].unsqueeze(1), None
    else:
        spread = torch.einsum("wbp,wbnd->bpnd", sets.to(grad.dtype), grad)
        inside = sets.any(0)[..., None, None]
    return (*rows_backward(spread, source, base, gradient, weights, inside), None, None, None)


attribute_units.register_autograd(_units_backward, setup_context=_rows_setup)
