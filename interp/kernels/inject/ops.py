"""Injection as operations of torch: what autograd and ``torch.compile`` know of the kernels."""

from typing import Any, Optional

import torch
from torch import Tensor

from interp.kernels.inject import triton as forward
from interp.kernels.inject.backward import triton as backward

# torch reads these annotations, and knows no ``Tensor | None``


@torch.library.custom_op("interp::inject_start", mutates_args=())
def start(
    base: Tensor,
    prompts: Tensor,
    columns: Optional[Tensor],  # noqa: UP045
    start: int,
    stop: int,
    where: Optional[Tensor],  # noqa: UP045
    new: Optional[Tensor],  # noqa: UP045
    old: Optional[Tensor],  # noqa: UP045
    part: Optional[Tensor],  # noqa: UP045
    directions: Optional[Tensor],  # noqa: UP045
    gain: Optional[Tensor],  # noqa: UP045
    bias: Optional[Tensor],  # noqa: UP045
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`~interp.kernels.inject.triton.launch_start`."""
    given = (base, prompts, columns, start, stop, where, new, old, part, directions, gain, bias, norm, eps)
    return forward.launch_start(*given)


@start.register_fake
def _(
    base: Tensor,
    prompts: Tensor,
    columns: Tensor | None,
    start: int,
    stop: int,
    where: Any,
    new: Any,
    old: Any,
    part: Any,
    directions: Any,
    gain: Any,
    bias: Any,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    n_columns = stop - start if columns is None else columns.shape[1]
    resid = base.new_empty(len(prompts), n_columns, base.shape[2])
    return resid, base.new_empty(0) if norm == "none" else torch.empty_like(resid)


@torch.library.custom_op("interp::inject_updates", mutates_args=())
def updates(
    before: Tensor,
    first: Tensor,
    second: Optional[Tensor],  # noqa: UP045
    gain: Optional[Tensor],  # noqa: UP045
    bias: Optional[Tensor],  # noqa: UP045
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`~interp.kernels.inject.triton.launch_updates`."""
    return forward.launch_updates(before, first, second, gain, bias, norm, eps)


@updates.register_fake
def _(
    before: Tensor, first: Tensor, second: Any, gain: Any, bias: Any, norm: str, eps: float
) -> tuple[Tensor, Tensor]:
    resid = before.new_empty(before.shape)
    return resid, before.new_empty(0) if norm == "none" else torch.empty_like(resid)


@torch.library.custom_op("interp::inject_norm_backward", mutates_args=())
def norm_backward(
    stream: Tensor,
    at_normed: Tensor,
    at_stream: Optional[Tensor],  # noqa: UP045
    gain: Optional[Tensor],  # noqa: UP045
    norm: str,
    eps: float,
    wants_gain: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~interp.kernels.inject.backward.triton.launch_norm_backward`."""
    return backward.launch_norm_backward(stream, at_normed, at_stream, gain, norm, eps, wants_gain)


@norm_backward.register_fake
def _(
    stream: Tensor, at_normed: Tensor, at_stream: Any, gain: Any, norm: str, eps: float, wants_gain: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n = stream.shape[-1] if wants_gain else 0
    return stream.new_empty(stream.shape), stream.new_empty(n), stream.new_empty(n)


@torch.library.custom_op("interp::inject_sum_by_key", mutates_args=())
def sum_by_key(
    values: Tensor,
    keys: Tensor,
    order: Tensor,
    n: int,
    where: Optional[Tensor],  # noqa: UP045
    chosen: bool,
) -> Tensor:
    """See :func:`~interp.kernels.inject.backward.triton.launch_sum_by_key`."""
    return backward.launch_sum_by_key(values, keys, order, n, where, chosen)


@sum_by_key.register_fake
def _(values: Tensor, keys: Tensor, order: Tensor, n: int, where: Any, chosen: bool) -> Tensor:
    return values.new_empty(n, values.shape[1])


@torch.library.custom_op("interp::inject_coefficients_backward", mutates_args=())
def coefficients_backward(
    gradient: Tensor,
    where: Optional[Tensor],  # noqa: UP045
    part: Tensor,
    directions: Tensor,
) -> Tensor:
    """See :func:`~interp.kernels.inject.backward.triton.launch_coefficients_backward`."""
    return backward.launch_coefficients_backward(gradient, where, part, directions)


@coefficients_backward.register_fake
def _(gradient: Tensor, where: Any, part: Tensor, directions: Tensor) -> Tensor:
    return gradient.new_empty(*gradient.shape[:2], directions.shape[1])


@torch.library.custom_op("interp::inject_directions_backward", mutates_args=())
def directions_backward(gradient: Tensor, amounts: Tensor, part: Tensor, n: int) -> Tensor:
    """See :func:`~interp.kernels.inject.backward.triton.launch_directions_backward`."""
    return backward.launch_directions_backward(gradient, amounts, part, n)


@directions_backward.register_fake
def _(gradient: Tensor, amounts: Tensor, part: Tensor, n: int) -> Tensor:
    return gradient.new_empty(n, amounts.shape[2], gradient.shape[2])


def _keep_start(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    base, prompts, columns, first, _, where, new, old, part, directions, gain, _, norm, eps = inputs
    ctx.save_for_backward(prompts, columns, where, new, old, part, directions, gain, output[0])
    ctx.shape, ctx.first, ctx.norm, ctx.eps = base.shape, first, norm, eps


def _start_backward(ctx: Any, at_resid: Tensor | None, at_normed: Tensor | None) -> tuple[Any, ...]:
    prompts, columns, where, new, old, _, directions, gain, resid = ctx.saved_tensors
    needs = ctx.needs_input_grad
    g, at_gain, at_bias = _through_norm(ctx, resid, gain, at_resid, at_normed, needs[10] or needs[11])
    found: list[Any] = [None] * 14
    found[10], found[11] = at_gain if needs[10] else None, at_bias if needs[11] else None
    if g is None or not any(needs[i] for i in (0, 6, 7, 9)):
        return tuple(found)
    column = columns
    if column is None:
        column = torch.arange(ctx.first, ctx.first + g.shape[1], device=g.device)[None]
    place = prompts[:, None] * ctx.shape[1] + column
    replaces = directions is None and new is not None and old is None
    keys, order = place.flatten().long().sort(stable=True)
    flat = None if where is None else where.flatten()
    n_places = ctx.shape[0] * ctx.shape[1]
    if needs[0]:
        if replaces and flat is None:
            found[0] = g.new_zeros(ctx.shape)
        else:
            kept = flat if replaces else None
            found[0] = sum_by_key(g.flatten(0, 1), keys, order, n_places, kept, False).view(ctx.shape)
    if directions is not None:
        _along_directions(ctx, g, found, column)
    elif needs[6] or needs[7]:
        total = sum_by_key(g.flatten(0, 1), keys, order, n_places, flat, True).view(new.shape)
        found[6], found[7] = total if needs[6] else None, -total if needs[7] else None
    return tuple(found)


def _along_directions(ctx: Any, g: Tensor, found: list[Any], column: Tensor) -> None:
    """Gradients of tables and directions, where a change goes along directions."""
    prompts, _, where, new, old, part, directions, _, _ = ctx.saved_tensors
    n_prompts, n_pos, n_parts, _ = new.shape
    if ctx.needs_input_grad[6] or ctx.needs_input_grad[7]:
        amounts = coefficients_backward(g, where, part, directions)
        place = (prompts[:, None] * n_pos + column) * n_parts + part[:, None]
        keys, order = place.flatten().long().sort(stable=True)
        n_places = n_prompts * n_pos * n_parts
        total = sum_by_key(amounts.flatten(0, 1), keys, order, n_places, None, True).view(new.shape)
        found[6] = total if ctx.needs_input_grad[6] else None
        found[7] = -total if ctx.needs_input_grad[7] else None
    if ctx.needs_input_grad[9]:
        at = (prompts[:, None], column, part[:, None])
        amounts = new[at] if old is None else new[at] - old[at]
        amounts = amounts if where is None else torch.where(where[..., None], amounts, 0.0)
        found[9] = directions_backward(g, amounts, part, len(directions))


def _keep_updates(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gain, norm, eps = inputs[3], inputs[5], inputs[6]
    ctx.save_for_backward(gain, output[0])
    ctx.norm, ctx.eps = norm, eps


def _updates_backward(ctx: Any, at_resid: Tensor | None, at_normed: Tensor | None) -> tuple[Any, ...]:
    gain, resid = ctx.saved_tensors
    needs = ctx.needs_input_grad
    g, at_gain, at_bias = _through_norm(ctx, resid, gain, at_resid, at_normed, needs[3] or needs[4])
    each = [g if needs[i] else None for i in range(3)]
    return *each, at_gain if needs[3] else None, at_bias if needs[4] else None, None, None


def _through_norm(
    ctx: Any,
    resid: Tensor,
    gain: Tensor | None,
    at_resid: Tensor | None,
    at_normed: Tensor | None,
    wants_gain: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the streams, of gain and of bias."""
    if ctx.norm == "none" or at_normed is None:
        return at_resid, None, None
    return norm_backward(resid, at_normed, at_resid, gain, ctx.norm, ctx.eps, wants_gain)


start.register_autograd(_start_backward, setup_context=_keep_start)
updates.register_autograd(_updates_backward, setup_context=_keep_updates)
