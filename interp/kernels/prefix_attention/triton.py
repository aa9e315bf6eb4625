"""The forward kernel, and the tiles that it shares with the gradients'.

A program takes a block of sorted queries, each token with the query heads that one key head serves, and walks the
prefix of every prompt among them (rows are sorted, so there is one, or a few at a border), then the keys of its rows'
own. Tiles which all queries see whole need no mask. Scores are in base 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.pieces import block_of, dot, needs_widening, tanh, tuned, with_whole_vectors

LOG2_E = tl.constexpr(1.4426950408889634)
NONE_YET = tl.constexpr(2147483647)


@triton.jit
def find_query(QUERIES, at, live, n):
    """Token, prompt, the prefix columns and own keys that are seen, and blindness of sorted queries; those that are
    not ``live`` see nothing."""
    token = tl.load(QUERIES + at, live, 0).to(tl.int64)
    prompt = tl.load(QUERIES + n + at, live, -1)
    prefix_from = tl.load(QUERIES + 2 * n + at, live, NONE_YET)
    prefix_to = tl.load(QUERIES + 3 * n + at, live, 0)
    own_from = tl.load(QUERIES + 4 * n + at, live, NONE_YET)
    own_to = tl.load(QUERIES + 5 * n + at, live, 0)
    blind = tl.load(QUERIES + 6 * n + at, live, 0) != 0
    return token, prompt, prefix_from, prefix_to, own_from, own_to, blind


@triton.jit
def load_tile(X, offsets, live, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Vectors of ``WIDTH`` at ``offsets``, filled up with zeros."""
    d = tl.arange(0, BLOCK)
    if WIDTH == BLOCK:
        return tl.load(X + offsets[:, None] + d[None, :], live[:, None], 0.0)
    return tl.load(X + offsets[:, None] + d[None, :], live[:, None] & (d[None, :] < WIDTH), 0.0)


@triton.jit
def store_tile(X, offsets, value, live, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Vectors of ``WIDTH`` to ``offsets``."""
    d = tl.arange(0, BLOCK)
    tl.store(
        X + offsets[:, None] + d[None, :],
        value.to(X.dtype.element_ty),
        live[:, None] & (d[None, :] < WIDTH),
    )


@triton.jit
def score(q, k, scale, soft_cap, CAPPED: tl.constexpr, WIDEN: tl.constexpr):
    """Scores of queries and keys in base 2, and their slope where a soft cap bends them."""
    s = dot(q, tl.trans(k), tl.zeros([q.shape[0], k.shape[0]], tl.float32), WIDEN) * scale
    slope = 1.0
    if CAPPED:
        bent = tanh(s / soft_cap)
        s = bent * soft_cap
        slope = 1.0 - bent * bent
    return s * LOG2_E, slope


@triton.jit
def finite(x):
    """``x`` with 0 for what is not finite, so that a product leaves those alone who do not see it."""
    return tl.where(tl.abs(x.to(tl.float32)) < float("inf"), x, 0.0).to(x.dtype)


@triton.jit
def is_bad(x):
    """Which vectors hold something that is not finite."""
    return tl.max((tl.abs(x.to(tl.float32)) < float("inf")).to(tl.int32) ^ 1, 1) != 0


@triton.jit
def _absorb(s, v, top, total, acc, WIDEN: tl.constexpr):
    """One more tile of an online softmax (Milakov and Gimelshein, 2018) and of its weighted values."""
    new = tl.maximum(top, tl.max(s, 1))
    # where nothing was seen yet, minus infinity less itself
    safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(s - safe[:, None])
    shrink = tl.exp2(top - safe)
    acc = dot(p.to(v.dtype), v, acc * shrink[:, None], WIDEN)
    return new, total * shrink + tl.sum(p, 1), acc


@triton.jit
def _absorb_some(
    q, K, V, k_at, v_at, there, seen, blind, scale, soft_cap, top, total, acc,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, CAPPED: tl.constexpr, PADDED: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """The same of a tile of which each query sees a part."""
    k = load_tile(K, k_at, there, WIDTH, BLOCK_D)
    v = load_tile(V, v_at, there, WIDTH, BLOCK_D)
    s, _ = score(q, k, scale, soft_cap, CAPPED, WIDEN)
    if PADDED:
        s = tl.where(blind[:, None], 0.0, s)
    s = tl.where(is_bad(v)[None, :], float("nan"), s)
    return _absorb(tl.where(seen, s, float("-inf")), finite(v), top, total, acc, WIDEN)


@triton.jit(do_not_specialize=["n_queries", "n_keys"])
def _forward(
    Q, K, V, PREFIX_K, PREFIX_V, REAL, QUERIES, KEYS, Z, LOG_SUM,
    n_queries, n_keys, scale, soft_cap,
    q_token, q_head, k_token, k_head, v_token, v_head,
    pk_prompt, pk_head, pk_pos, pv_prompt, pv_head, pv_pos, real_prompt,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    CAPPED: tl.constexpr, PADDED: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv = tl.program_id(1)
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    at = tl.program_id(0) * TOKENS + m // GROUP
    live = (m // GROUP < TOKENS) & (at < n_queries)
    token, prompt, prefix_from, prefix_to, own_from, own_to, blind = find_query(QUERIES, at, live, n_queries)
    head = kv * GROUP + m % GROUP
    q = load_tile(Q, token * q_token + head * q_head, live, WIDTH, BLOCK_D)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first_prompt, last_prompt = tl.min(tl.where(live, prompt, NONE_YET)), tl.max(prompt)
    for step in range(last_prompt - first_prompt + 1):
        one = first_prompt + step
        mine = prompt == one
        keys = PREFIX_K + one.to(tl.int64) * pk_prompt + kv * pk_head
        values = PREFIX_V + one.to(tl.int64) * pv_prompt + kv * pv_head
        begin = tl.min(tl.where(mine, prefix_from, NONE_YET))
        end = tl.max(tl.where(mine, prefix_to, 0))
        n_tiles = tl.cdiv(tl.maximum(end - begin, 0), BLOCK_N)
        # tiles whole_from .. whole_to are seen by all
        whole_from, whole_to = 0, 0
        if not PADDED and first_prompt == last_prompt:
            whole_from = tl.cdiv(tl.max(tl.where(mine, prefix_from, 0)) - begin, BLOCK_N)
            whole_to = (tl.min(tl.where(mine, prefix_to, NONE_YET)) - begin) // BLOCK_N
            whole_to = tl.maximum(whole_to, whole_from)
        for tile in range(whole_from, whole_to):
            column = begin + tile * BLOCK_N + n
            k = load_tile(keys, column.to(tl.int64) * pk_pos, n >= 0, WIDTH, BLOCK_D)
            v = load_tile(values, column.to(tl.int64) * pv_pos, n >= 0, WIDTH, BLOCK_D)
            s, _ = score(q, k, scale, soft_cap, CAPPED, WIDEN)
            top, total, acc = _absorb(s, v, top, total, acc, WIDEN)
        for partial in range(n_tiles - (whole_to - whole_from)):
            tile = tl.where(partial < whole_from, partial, partial + whole_to - whole_from)
            column = begin + tile * BLOCK_N + n
            there = column < end
            seen = (column[None, :] >= prefix_from[:, None]) & (column[None, :] < prefix_to[:, None])
            seen = seen & mine[:, None]
            if PADDED:
                real = tl.load(REAL + one.to(tl.int64) * real_prompt + column, there, 0) != 0
                seen = seen & (real[None, :] | blind[:, None])
            top, total, acc = _absorb_some(
                q, keys, values, column.to(tl.int64) * pk_pos, column.to(tl.int64) * pv_pos, there, seen, blind,
                scale, soft_cap, top, total, acc, WIDTH, BLOCK_D, CAPPED, PADDED, WIDEN,
            )  # fmt: skip
    begin, end = tl.min(own_from), tl.max(own_to)
    for at_key in range(begin, end, BLOCK_N):
        key = at_key + n
        there = key < end
        own = tl.load(KEYS + key, there, 0).to(tl.int64)
        seen = (key[None, :] >= own_from[:, None]) & (key[None, :] < own_to[:, None])
        if PADDED:
            real = tl.load(KEYS + n_keys + key, there, 0) != 0
            seen = seen & (real[None, :] | blind[:, None])
        top, total, acc = _absorb_some(
            q, K, V, own * k_token + kv * k_head, own * v_token + kv * v_head, there, seen, blind,
            scale, soft_cap, top, total, acc, WIDTH, BLOCK_D, CAPPED, PADDED, WIDEN,
        )  # fmt: skip
    # read again: in registers it would have stood there all the while
    token = tl.load(QUERIES + at, live, 0).to(tl.int64)
    # a query that sees no key at all is not live
    weight = tl.where(live, total, 1.0)
    z = acc / weight[:, None]
    store_tile(Z, (token * HEADS + head) * WIDTH, z, live, WIDTH, BLOCK_D)
    tl.store(LOG_SUM + token * HEADS + head, top + tl.log2(weight), live)


def make_configs(block_d: int, dtype: torch.dtype, many: bool) -> list[triton.Config]:
    """Blocks of queries by keys: as many queries as registers hold, for a prefix is read once for each block, and
    fewer where large blocks would leave multiprocessors idle (not ``many``). Found by compiling: hardly any spill."""
    wide = dtype == torch.float32
    if block_d <= 32 or (block_d <= 64 and not wide):
        shapes = [(128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3), (64, 32, 4, 3)]
    elif block_d <= 64:
        shapes = [(128, 32, 8, 2), (64, 32, 8, 2), (64, 16, 4, 2)]
    elif block_d <= 128 and not wide:
        shapes = [(128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 8, 2)]
    elif block_d <= 128:
        shapes = [(32, 32, 8, 2), (32, 16, 4, 2)]
    elif not wide:
        shapes = [(64, 16, 8, 2), (32, 32, 4, 2)]
    else:
        shapes = [(16, 16, 8, 1)]
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
        for m, n, warps, stages in shapes
        if many or m <= 64
    ]


def fills_device(n_queries: int, n_heads: int) -> bool:
    """Whether blocks of 128 queries are two for each multiprocessor of an H100, or more."""
    return n_queries * n_heads >= 128 * 2 * 132


@cache
def _tuned_forward(block_d: int, dtype: torch.dtype, many: bool) -> Any:
    return tuned(make_configs(block_d, dtype, many), key=["WIDTH", "CAPPED", "PADDED"])(_forward)


def run_forward(
    q: Float[Tensor, "query head d_head"],
    k: Float[Tensor, "key kv_head d_head"],
    v: Float[Tensor, "key kv_head d_head"],
    prefix_k: Float[Tensor, "prompt kv_head pos d_head"],
    prefix_v: Float[Tensor, "prompt kv_head pos d_head"],
    real: Bool[Tensor, "#prompt column"] | None,
    queries: Int[Tensor, "7 query"],
    keys: Int[Tensor, "4 key"],
    scale: float,
    soft_cap: float | None,
) -> tuple[Float[Tensor, "query head d_head"], Float[Tensor, "query head"]]:
    """``z`` and the base-2 logarithm of each query's sum of exponentials."""
    n_queries, n_heads, width = q.shape
    z = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    log_sum = torch.empty(n_queries, n_heads, dtype=torch.float32, device=q.device)
    if not z.numel():
        return z, log_sum
    tensors = [with_whole_vectors(x) for x in (q, k, v, prefix_k, prefix_v)]
    real = None if real is None else with_whole_vectors(real)
    group, block_d = n_heads // k.shape[1], block_of(width, most=256)
    kernel = _tuned_forward(block_d, q.dtype, fills_device(n_queries, n_heads))

    def grid(config: Mapping[str, int]) -> tuple[int, int]:
        return triton.cdiv(n_queries, config["BLOCK_M"] // group), k.shape[1]

    kernel[grid](
        *tensors, real, queries, keys, z, log_sum, n_queries, keys.shape[1], scale, soft_cap or 1.0,
        *strides_of(tensors, real), HEADS=n_heads, GROUP=group, WIDTH=width, BLOCK_D=block_d,
        CAPPED=soft_cap is not None, PADDED=real is not None, WIDEN=needs_widening(q.dtype),
    )  # fmt: skip
    return z, log_sum


def strides_of(tensors: Sequence[Tensor], real: Tensor | None) -> list[int]:
    """How far it is to the next entry of every axis but the last, and to the next prompt's padding."""
    strides = [stride for x in tensors for stride in x.stride()[:-1]]
    return [*strides, 0 if real is None or len(real) == 1 else real.stride(0)]
