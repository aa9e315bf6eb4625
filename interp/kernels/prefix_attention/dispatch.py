"""Which of kernel and reference runs, and what tensors must be like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels.backend import kernel_runs
from interp.kernels.prefix_attention.reference import attend_prefix_reference
from interp.kernels.prefix_attention.rows import Rows, count_keys, count_queries, longest_prefix

MOST_D_HEAD = 256
MOST_HEADS_OF_ONE_KEY = 16


class QueryPlan(NamedTuple):
    """Rows sorted by their prompts, and what each query sees: made once for all layers of one window."""

    queries: Int[Tensor, "7 query"]
    keys: Int[Tensor, "4 key"]


def prefix_kernel_runs(like: Tensor, n_heads: int, n_kv_heads: int) -> bool:
    """Whether :func:`attend_prefix` runs as a kernel for queries or keys [..., d_head] like these."""
    refusal, d_head = "", like.shape[-1]
    if d_head > MOST_D_HEAD:
        refusal = f"d_head is {d_head}, at most {MOST_D_HEAD} is covered"
    elif n_heads > MOST_HEADS_OF_ONE_KEY * n_kv_heads:
        refusal = f"{n_heads // n_kv_heads} query heads share a key head, at most {MOST_HEADS_OF_ONE_KEY} are covered"
    return kernel_runs("prefix_attention", [like], refusal=refusal)


def plan_queries(
    rows: Sequence[Rows], real: Bool[Tensor, "prompt column"] | None = None, window: int | None = None
) -> QueryPlan:
    """The plan of :func:`attend_prefix`'s kernel for rows, their padding and a sliding window.

    Made on the device without waiting for it, so that it can be part of a CUDA graph. Raises
    :class:`~interp.errors.KernelError` where there are no rows.
    """
    if not rows:
        raise KernelError("no rows to plan for: give at least one set of rows.")
    from interp.kernels.prefix_attention.ops import plan

    columns = [part.prompts.new_empty(0) if part.columns is None else part.columns for part in rows]
    starts, stops = [part.start for part in rows], [part.stop for part in rows]
    return QueryPlan(*plan([part.prompts for part in rows], columns, starts, stops, real, window))


def attend_prefix(
    q: Float[Tensor, "query head d_head"],
    k: Float[Tensor, "key kv_head d_head"],
    v: Float[Tensor, "key kv_head d_head"],
    prefix_k: Float[Tensor, "prompt kv_head pos d_head"],
    prefix_v: Float[Tensor, "prompt kv_head pos d_head"],
    rows: Sequence[Rows],
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    real: Bool[Tensor, "#prompt column"] | None = None,
    plan: QueryPlan | None = None,
) -> Float[Tensor, "query head d_head"]:
    """What heads put out whose rows see the base run's keys before their first column and their own from there on.

    Queries, keys and values of ``rows`` stand one after another: rows as they are given, columns within a row.
    Query head h reads key head ``h // (head / kv_head)``. Scores are ``scale * q·k``, bent by ``soft_cap`` (``cap *
    tanh(score / cap)``); a query sees itself and what comes before, at most ``window`` columns in all, and of its
    prompt what is ``real``. A query that sees nothing, as padding does, attends to all columns before ``stop`` alike.

    ``plan`` is :func:`plan_queries` of the same rows, padding and window, where it was made already.

    Raises :class:`~interp.errors.KernelError` for tensors that do not fit each other or the rows.
    """
    _check(q, k, v, prefix_k, prefix_v, rows, soft_cap, window, real)
    if plan is not None and (plan.queries.shape[1], plan.keys.shape[1]) != (len(q), len(k)):
        raise KernelError(
            f"the plan is of {plan.queries.shape[1]} queries and {plan.keys.shape[1]} keys, the rows have {len(q)} and "
            f"{len(k)}: make it of the same rows."
        )
    if not prefix_kernel_runs(q, q.shape[1], k.shape[1]):
        return attend_prefix_reference(q, k, v, prefix_k, prefix_v, rows, scale, soft_cap, window, real)
    if not len(q):
        return q.clone()
    from interp.kernels.prefix_attention.ops import attend

    plan = plan_queries(rows, real, window) if plan is None else plan
    given = (q, k, v, prefix_k, prefix_v, real, plan.queries, plan.keys)
    z, _ = attend(*given, float(scale), soft_cap, longest_prefix(rows))
    return z


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    rows: Sequence[Rows],
    soft_cap: float | None,
    window: int | None,
    real: Tensor | None,
) -> None:
    if q.ndim != 3 or k.ndim != 3 or prefix_k.ndim != 4 or k.shape != v.shape:
        raise KernelError(
            f"prefix attention takes q [query, head, d_head], k and v [key, kv_head, d_head], and a prefix [prompt, "
            f"kv_head, pos, d_head]; got {_shapes(q, k, v, prefix_k)}."
        )
    heads = (k.shape[1], k.shape[2])
    fits = q.shape[2] == heads[1] and k.shape[1] > 0 and q.shape[1] % k.shape[1] == 0
    if not fits or prefix_k.shape != prefix_v.shape or (prefix_k.shape[1], prefix_k.shape[3]) != heads:
        raise KernelError(
            f"q, k and the prefix do not have heads that fit each other: {_shapes(q, k, prefix_k, prefix_v)}; the "
            "query heads must be a multiple of the key heads, all of one d_head."
        )
    if len({x.dtype for x in (q, k, v, prefix_k, prefix_v)}) > 1:
        raise KernelError(
            f"q, k, v and the prefix must be of one dtype; got {q.dtype}, {k.dtype}, {v.dtype}, {prefix_k.dtype} and "
            f"{prefix_v.dtype}."
        )
    if (len(q), len(k)) != (count_queries(rows), count_keys(rows)):
        raise KernelError(
            f"the rows have {count_queries(rows)} queries and {count_keys(rows)} keys of their own; got {len(q)} and "
            f"{len(k)}."
        )
    if any(part.columns is not None and len(part.columns) != len(part.prompts) for part in rows):
        raise KernelError("each row has its own columns: they must be as many as the prompts of their rows.")
    if longest_prefix(rows) > prefix_k.shape[2]:
        raise KernelError(
            f"rows that begin at column {longest_prefix(rows)} need as many of a prefix; it has {prefix_k.shape[2]}."
        )
    if any(not 0 <= part.start < part.stop for part in rows if len(part.prompts)):
        raise KernelError("rows begin at column 0 or later and end after they begin.")
    if (soft_cap is not None and soft_cap <= 0) or (window is not None and window < 1):
        raise KernelError(
            f"a soft cap is above 0 and a window at least 1 column; got {soft_cap} and {window}."
        )
    last = max([0, *(part.stop for part in rows)])
    if real is not None and (len(real) not in (1, len(prefix_k)) or real.shape[1] < last):
        raise KernelError(
            f"real must say of each prompt, or of all alike, which of its {last} columns are no padding; got "
            f"{tuple(real.shape)} for {len(prefix_k)} prompts."
        )


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(x.shape)) for x in tensors)
