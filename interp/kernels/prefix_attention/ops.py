"""The kernels as operations that autograd and ``torch.compile`` know. Imported only where they run."""

from typing import Any

import torch
from torch import Tensor

from interp.kernels.prefix_attention.gradients.triton import run_backward
from interp.kernels.prefix_attention.planning.triton import KEY_FIELDS, QUERY_FIELDS, plan_queries_and_keys
from interp.kernels.prefix_attention.triton import run_forward


@torch.library.custom_op("interp::prefix_attention_plan", mutates_args=())
def plan(
    prompts: list[Tensor],
    columns: list[Tensor],
    starts: list[int],
    stops: list[int],
    real: Tensor | None,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Tables of sorted queries and keys, see ``planning.triton``; no entries in ``columns`` mean all of a row's."""
    given = [None if each.ndim == 1 else each for each in columns]
    return plan_queries_and_keys(prompts, starts, stops, given, real, window)


@plan.register_fake
def _(
    prompts: list[Tensor],
    columns: list[Tensor],
    starts: list[int],
    stops: list[int],
    real: Tensor | None,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    n_queries = n_keys = 0
    for own, given, start, stop in zip(prompts, columns, starts, stops, strict=True):
        n_queries += own.shape[0] * (stop - start if given.ndim == 1 else given.shape[1])
        n_keys += own.shape[0] * (stop - start)
    like = prompts[0]
    return (
        like.new_empty(QUERY_FIELDS, n_queries, dtype=torch.int32),
        like.new_empty(KEY_FIELDS, n_keys, dtype=torch.int32),
    )


@torch.library.custom_op("interp::prefix_attention", mutates_args=())
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    real: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    scale: float,
    soft_cap: float | None,
    n_prefix: int,
) -> tuple[Tensor, Tensor]:
    """Heads' outputs, and the logarithm of the sum that each query's weights were divided by."""
    return run_forward(q, k, v, prefix_k, prefix_v, real, queries, keys, scale, soft_cap)


@attend.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    real: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    scale: float,
    soft_cap: float | None,
    n_prefix: int,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("interp::prefix_attention_backward", mutates_args=())
def attend_backward(
    dz: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    real: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    z: Tensor,
    log_sum: Tensor,
    scale: float,
    soft_cap: float | None,
    n_prefix: int,
    of_own: bool,
    of_prefix: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all five, empty where not wanted."""
    given = (dz, q, k, v, prefix_k, prefix_v, real, queries, keys, z, log_sum)
    return run_backward(*given, scale, soft_cap, n_prefix, of_own, of_prefix)


@attend_backward.register_fake
def _(
    dz: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    real: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    z: Tensor,
    log_sum: Tensor,
    scale: float,
    soft_cap: float | None,
    n_prefix: int,
    of_own: bool,
    of_prefix: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wanted = ((q, True), (k, of_own), (v, of_own), (prefix_k, of_prefix), (prefix_v, of_prefix))
    dq, dk, dv, dpk, dpv = (x.new_empty(x.shape if kept else (0,)) for x, kept in wanted)
    return dq, dk, dv, dpk, dpv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.soft_cap, ctx.n_prefix = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, dz: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:5]
    made = attend_backward(
        dz,
        *ctx.saved_tensors,
        ctx.scale,
        ctx.soft_cap,
        ctx.n_prefix,
        wanted[1] or wanted[2],
        wanted[3] or wanted[4],
    )
    return (*(each if kept else None for each, kept in zip(made, wanted, strict=True)), *[None] * 6)


attend.register_autograd(_differentiate, setup_context=_keep)
