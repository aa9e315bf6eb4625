"""Gradients of prefix attention: weights are made again from the saved sums (Dao, 2023), and no two programs write
to one place. One kernel goes as the forward does, for queries; two walk the queries of a block of keys, which are
those of their rows or, in the prefix, all of a prompt's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.pieces import block_of, dot, needs_widening, tuned, with_whole_vectors
from interp.kernels.prefix_attention.triton import (
    NONE_YET,
    find_query,
    finite,
    is_bad,
    load_tile,
    score,
    store_tile,
    strides_of,
)


@triton.jit
def _weights(
    q, k, v, dz, seen, blind, log_sum, delta, scale, soft_cap, CAPPED: tl.constexpr, WIDEN: tl.constexpr
):
    """The pattern of a tile, and the gradient of its products of queries and keys."""
    s, slope = score(q, k, scale, soft_cap, CAPPED, WIDEN)
    s = tl.where(blind[:, None], 0.0, s)
    p = tl.where(seen, tl.exp2(s - log_sum[:, None]), 0.0)
    dp = dot(dz, tl.trans(v), tl.zeros([q.shape[0], k.shape[0]], tl.float32), WIDEN)
    ds = tl.where(seen & (blind[:, None] == 0), p * (dp - delta[:, None]) * slope * scale, 0.0)
    return p, ds


@triton.jit(do_not_specialize=["n_queries", "n_keys"])
def _of_queries(
    Q, K, V, PREFIX_K, PREFIX_V, REAL, QUERIES, KEYS, Z, LOG_SUM, DZ, DELTA, DQ,
    n_queries, n_keys, scale, soft_cap,
    q_token, q_head, k_token, k_head, v_token, v_head,
    pk_prompt, pk_head, pk_pos, pv_prompt, pv_head, pv_pos, real_prompt,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    CAPPED: tl.constexpr, PADDED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``DQ``, and of each query the part of its scores' gradient which all of them share (``DELTA``)."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv = tl.program_id(1)
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    at = tl.program_id(0) * TOKENS + m // GROUP
    live = (m // GROUP < TOKENS) & (at < n_queries)
    token, prompt, prefix_from, prefix_to, own_from, own_to, blind = find_query(QUERIES, at, live, n_queries)
    place = token * HEADS + kv * GROUP + m % GROUP
    q = load_tile(Q, token * q_token + (kv * GROUP + m % GROUP) * q_head, live, WIDTH, BLOCK_D)
    dz = load_tile(DZ, place * WIDTH, live, WIDTH, BLOCK_D)
    z = load_tile(Z, place * WIDTH, live, WIDTH, BLOCK_D)
    delta = tl.sum(z.to(tl.float32) * dz.to(tl.float32), 1)
    tl.store(DELTA + place, delta, live)
    log_sum = tl.load(LOG_SUM + place, live, 0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first_prompt, last_prompt = tl.min(tl.where(live, prompt, NONE_YET)), tl.max(prompt)
    for step in range(last_prompt - first_prompt + 1):
        one = first_prompt + step
        mine = prompt == one
        keys = PREFIX_K + one.to(tl.int64) * pk_prompt + kv * pk_head
        values = PREFIX_V + one.to(tl.int64) * pv_prompt + kv * pv_head
        begin = tl.min(tl.where(mine, prefix_from, NONE_YET))
        end = tl.max(tl.where(mine, prefix_to, 0))
        for at_column in range(begin, end, BLOCK_N):
            column = at_column + n
            there = column < end
            k = load_tile(keys, column.to(tl.int64) * pk_pos, there, WIDTH, BLOCK_D)
            v = load_tile(values, column.to(tl.int64) * pv_pos, there, WIDTH, BLOCK_D)
            seen = (column[None, :] >= prefix_from[:, None]) & (column[None, :] < prefix_to[:, None])
            seen = seen & mine[:, None]
            if PADDED:
                real = tl.load(REAL + one.to(tl.int64) * real_prompt + column, there, 0) != 0
                seen = seen & (real[None, :] | blind[:, None])
            _, ds = _weights(q, k, v, dz, seen, blind, log_sum, delta, scale, soft_cap, CAPPED, WIDEN)
            dq = dot(ds.to(k.dtype), finite(k), dq, WIDEN)
    begin, end = tl.min(own_from), tl.max(own_to)
    for at_key in range(begin, end, BLOCK_N):
        key = at_key + n
        there = key < end
        own = tl.load(KEYS + key, there, 0).to(tl.int64)
        k = load_tile(K, own * k_token + kv * k_head, there, WIDTH, BLOCK_D)
        v = load_tile(V, own * v_token + kv * v_head, there, WIDTH, BLOCK_D)
        seen = (key[None, :] >= own_from[:, None]) & (key[None, :] < own_to[:, None])
        if PADDED:
            real = tl.load(KEYS + n_keys + key, there, 0) != 0
            seen = seen & (real[None, :] | blind[:, None])
        _, ds = _weights(q, k, v, dz, seen, blind, log_sum, delta, scale, soft_cap, CAPPED, WIDEN)
        dq = dot(ds.to(k.dtype), finite(k), dq, WIDEN)
    store_tile(DQ, place * WIDTH, dq, live, WIDTH, BLOCK_D)


@triton.jit
def _add_block(
    k, v, dk, dv, Q, DZ, LOG_SUM, DELTA, q_token, q_head, token, kv, live, seen, blind, scale, soft_cap,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    CAPPED: tl.constexpr, WIDEN: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """What a block of queries adds to the gradients of a block of keys and values."""
    head = kv * GROUP + tl.arange(0, BLOCK_M) % GROUP
    place = token * HEADS + head
    q = load_tile(Q, token * q_token + head * q_head, live, WIDTH, BLOCK_D)
    dz = load_tile(DZ, place * WIDTH, live, WIDTH, BLOCK_D)
    log_sum = tl.load(LOG_SUM + place, live, 0.0)
    delta = tl.load(DELTA + place, live, 0.0)
    p, ds = _weights(q, k, v, dz, seen, blind, log_sum, delta, scale, soft_cap, CAPPED, WIDEN)
    p = tl.where(seen & is_bad(dz)[:, None], float("nan"), p)
    dv = dot(tl.trans(p.to(dz.dtype)), finite(dz), dv, WIDEN)
    dk = dot(tl.trans(ds.to(q.dtype)), finite(q), dk, WIDEN)
    return dk, dv


@triton.jit(do_not_specialize=["n_queries", "n_keys"])
def _of_own_keys(
    Q, K, V, QUERIES, KEYS, LOG_SUM, DZ, DELTA, DK, DV, n_queries, n_keys, scale, soft_cap,
    q_token, q_head, k_token, k_head, v_token, v_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    CAPPED: tl.constexpr, PADDED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``DK`` and ``DV`` of a block of sorted keys."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv = tl.program_id(1)
    m = tl.arange(0, BLOCK_M)
    key = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = key < n_keys
    own = tl.load(KEYS + key, there, 0).to(tl.int64)
    real = tl.load(KEYS + n_keys + key, there, 0) != 0
    begin = tl.min(tl.load(KEYS + 2 * n_keys + key, there, NONE_YET))
    end = tl.max(tl.load(KEYS + 3 * n_keys + key, there, 0))
    k = load_tile(K, own * k_token + kv * k_head, there, WIDTH, BLOCK_D)
    v = load_tile(V, own * v_token + kv * v_head, there, WIDTH, BLOCK_D)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for at_query in range(begin, end, TOKENS):
        at = at_query + m // GROUP
        live = (m // GROUP < TOKENS) & (at < end)
        token, _, _, _, own_from, own_to, blind = find_query(QUERIES, at, live, n_queries)
        seen = (key[None, :] >= own_from[:, None]) & (key[None, :] < own_to[:, None]) & there[None, :]
        if PADDED:
            seen = seen & (real[None, :] | blind[:, None])
        dk, dv = _add_block(
            k, v, dk, dv, Q, DZ, LOG_SUM, DELTA, q_token, q_head, token, kv, live, seen, blind, scale,
            soft_cap, KV_HEADS * GROUP, GROUP, WIDTH, BLOCK_D, CAPPED, WIDEN, BLOCK_M,
        )  # fmt: skip
    place = (own * KV_HEADS + kv) * WIDTH
    store_tile(DK, place, dk, there, WIDTH, BLOCK_D)
    store_tile(DV, place, dv, there, WIDTH, BLOCK_D)


@triton.jit(do_not_specialize=["n_queries", "n_prefix"])
def _of_prefix(
    Q, PREFIX_K, PREFIX_V, REAL, QUERIES, FIRST, LOG_SUM, DZ, DELTA, DK, DV,
    n_queries, n_prefix, scale, soft_cap, q_token, q_head,
    pk_prompt, pk_head, pk_pos, pv_prompt, pv_head, pv_pos, real_prompt,
    N_PARTS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr, CAPPED: tl.constexpr, PADDED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What one part of a prompt's queries adds to ``DK`` and ``DV`` [part, prompt, kv_head, pos, d_head] of a block of
    columns. A prompt's sorted queries begin at ``FIRST``."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    part, kv, prompt = tl.program_id(0) % N_PARTS, tl.program_id(1), tl.program_id(2)
    m = tl.arange(0, BLOCK_M)
    column = (tl.program_id(0) // N_PARTS) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = column < n_prefix
    keys = PREFIX_K + prompt.to(tl.int64) * pk_prompt + kv * pk_head
    values = PREFIX_V + prompt.to(tl.int64) * pv_prompt + kv * pv_head
    k = load_tile(keys, column.to(tl.int64) * pk_pos, there, WIDTH, BLOCK_D)
    v = load_tile(values, column.to(tl.int64) * pv_pos, there, WIDTH, BLOCK_D)
    real = there
    if PADDED:
        real = tl.load(REAL + prompt.to(tl.int64) * real_prompt + column, there, 0) != 0
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    begin, end = tl.load(FIRST + prompt), tl.load(FIRST + prompt + 1)
    share = tl.cdiv(tl.cdiv(end - begin, TOKENS), N_PARTS) * TOKENS
    begin = tl.minimum(begin + part * share, end)
    end = tl.minimum(begin + share, end)
    for at_query in range(begin, end, TOKENS):
        at = at_query + m // GROUP
        live = (m // GROUP < TOKENS) & (at < end)
        token, _, prefix_from, prefix_to, _, _, blind = find_query(QUERIES, at, live, n_queries)
        seen = (column[None, :] >= prefix_from[:, None]) & (column[None, :] < prefix_to[:, None])
        if PADDED:
            seen = seen & (real[None, :] | blind[:, None])
        dk, dv = _add_block(
            k, v, dk, dv, Q, DZ, LOG_SUM, DELTA, q_token, q_head, token, kv, live, seen, blind, scale,
            soft_cap, KV_HEADS * GROUP, GROUP, WIDTH, BLOCK_D, CAPPED, WIDEN, BLOCK_M,
        )  # fmt: skip
    n_prompts = tl.num_programs(2)
    place = (((part * n_prompts + prompt).to(tl.int64) * KV_HEADS + kv) * n_prefix + column) * WIDTH
    store_tile(DK, place, dk, there, WIDTH, BLOCK_D)
    store_tile(DV, place, dv, there, WIDTH, BLOCK_D)


def make_configs(block_d: int, dtype: torch.dtype) -> list[triton.Config]:
    """Two tiles of products and two of sums stand in registers at once: smaller blocks than the forward's, the larger
    ones for many queries, and the narrower the more registers a vector takes. Found by compiling: hardly any spill."""
    wide = dtype == torch.float32
    if block_d <= 32 or (block_d <= 64 and not wide):
        shapes = [(64, 32, 4, 2), (64, 64, 8, 2), (32, 32, 4, 2)]
    elif block_d <= 64:
        shapes = [(32, 32, 8, 1), (32, 32, 4, 2)]
    elif block_d <= 128 and not wide:
        shapes = [(64, 32, 8, 2), (32, 32, 4, 2)]
    elif block_d <= 128:
        shapes = [(32, 32, 8, 1)]
    elif not wide:
        shapes = [(32, 32, 8, 1), (32, 16, 4, 1)]
    else:
        shapes = [(16, 16, 8, 1)]
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
        for m, n, warps, stages in shapes
    ]


@cache
def _tuned_kernel(kernel: Any, block_d: int, dtype: torch.dtype) -> Any:
    return tuned(make_configs(block_d, dtype), key=["WIDTH", "CAPPED", "PADDED"])(kernel)


@dataclass(frozen=True, eq=False)
class _Sizes:
    """What all three kernels are told."""

    q: Tensor
    n_kv: int
    n_keys: int
    numbers: tuple[float, float]
    """Scale and soft cap."""
    constants: Mapping[str, int | bool]

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.n_kv

    def tuned(self, kernel: Any) -> Any:
        return _tuned_kernel(kernel, self.constants["BLOCK_D"], self.q.dtype)

    def per_query(self, config: Mapping[str, int]) -> tuple[int, int]:
        return triton.cdiv(len(self.q), config["BLOCK_M"] // self.group), self.n_kv

    def per_key(self, config: Mapping[str, int]) -> tuple[int, int]:
        return triton.cdiv(self.n_keys, config["BLOCK_N"]), self.n_kv


def run_backward(
    dz: Float[Tensor, "query head d_head"],
    q: Float[Tensor, "query head d_head"],
    k: Float[Tensor, "key kv_head d_head"],
    v: Float[Tensor, "key kv_head d_head"],
    prefix_k: Float[Tensor, "prompt kv_head pos d_head"],
    prefix_v: Float[Tensor, "prompt kv_head pos d_head"],
    real: Bool[Tensor, "#prompt column"] | None,
    queries: Int[Tensor, "7 query"],
    keys: Int[Tensor, "4 key"],
    z: Float[Tensor, "query head d_head"],
    log_sum: Float[Tensor, "query head"],
    scale: float,
    soft_cap: float | None,
    n_prefix: int,
    of_own: bool,
    of_prefix: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``q``, ``k``, ``v``, ``prefix_k`` and ``prefix_v``; of those not wanted, empty tensors.

    No row reads the prefix from column ``n_prefix`` on.
    """
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.empty(x.shape if of_own else 0, dtype=x.dtype, device=x.device) for x in (k, v))
    dpk, dpv = (
        torch.zeros(x.shape if of_prefix else 0, dtype=x.dtype, device=x.device) for x in (prefix_k, prefix_v)
    )
    if not dq.numel():
        return dq, dk.zero_(), dv.zero_(), dpk, dpv
    q, k, v, prefix_k, prefix_v = (with_whole_vectors(x) for x in (q, k, v, prefix_k, prefix_v))
    real = None if real is None else with_whole_vectors(real)
    dz, delta = dz.contiguous(), torch.empty_like(log_sum)
    constants = dict(GROUP=q.shape[1] // k.shape[1], WIDTH=q.shape[2], BLOCK_D=block_of(q.shape[2], most=256))
    constants |= dict(CAPPED=soft_cap is not None, PADDED=real is not None, WIDEN=needs_widening(q.dtype))
    sizes = _Sizes(q, k.shape[1], len(k), (scale, soft_cap or 1.0), constants)
    strides = strides_of((q, k, v, prefix_k, prefix_v), real)
    sizes.tuned(_of_queries)[sizes.per_query](
        q, k, v, prefix_k, prefix_v, real, queries, keys, z.contiguous(), log_sum, dz, delta, dq,
        len(q), len(k), *sizes.numbers, *strides, HEADS=q.shape[1], **constants,
    )  # fmt: skip
    if of_own:
        sizes.tuned(_of_own_keys)[sizes.per_key](
            q, k, v, queries, keys, log_sum, dz, delta, dk, dv, len(q), len(k), *sizes.numbers,
            *strides[:6], KV_HEADS=sizes.n_kv, **constants,
        )  # fmt: skip
    if of_prefix and n_prefix:
        made = _run_prefix(sizes, prefix_k, prefix_v, real, queries, log_sum, dz, delta, strides, n_prefix)
        dpk[:, :, :n_prefix], dpv[:, :, :n_prefix] = made
    return dq, dk, dv, dpk, dpv


def _run_prefix(
    sizes: _Sizes,
    prefix_k: Tensor,
    prefix_v: Tensor,
    real: Tensor | None,
    queries: Tensor,
    log_sum: Tensor,
    dz: Tensor,
    delta: Tensor,
    strides: list[int],
    n_prefix: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of the prefix's first columns, in fp32."""
    q, n_kv, n_prompts = sizes.q, sizes.n_kv, len(prefix_k)
    first = torch.arange(n_prompts + 1, dtype=torch.int32, device=q.device)
    first = torch.searchsorted(queries[1], first, out_int32=True)
    n_parts = count_parts(n_prompts * n_kv * triton.cdiv(n_prefix, 64), len(q) * sizes.group)
    parts = q.new_empty(2, n_parts, n_prompts, n_kv, n_prefix, q.shape[2], dtype=torch.float32)

    def per_column(config: Mapping[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(n_prefix, config["BLOCK_N"]) * n_parts, n_kv, n_prompts

    sizes.tuned(_of_prefix)[per_column](
        q, prefix_k, prefix_v, real, queries, first, log_sum, dz, delta, parts[0], parts[1],
        len(q), n_prefix, *sizes.numbers, *strides[:2], *strides[6:],
        N_PARTS=n_parts, KV_HEADS=n_kv, **sizes.constants,
    )  # fmt: skip
    return parts[0].sum(0), parts[1].sum(0)


def count_parts(n_programs: int, n_queries: int) -> int:
    """Into how many parts a prompt's queries are split, so that few columns still fill an H100: a power of two, with
    several blocks of queries left to each."""
    most = max(1, min(16, n_queries // 1024))
    parts = 1
    while n_programs * parts < 2 * 132 and 2 * parts <= most:
        parts *= 2
    return parts
