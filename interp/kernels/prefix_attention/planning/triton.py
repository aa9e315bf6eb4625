"""Kernels that sort rows by their prompts and say of each query what it sees.

Two tables of int32. ``queries`` [7, query], in sorted order: the token in ``q``, the prompt, from and to which
column of the prefix and from and to which sorted key it sees, and whether it is blind (it sees no real column, and
attends to all alike). ``keys`` [4, key], in sorted order: the token in ``k``, whether it is real, and from and to
which sorted query its row asks. Ranks are counts of the rows before, so that nothing is sorted in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Int
from torch import Tensor

QUERY_FIELDS = 7
KEY_FIELDS = 4
ROW_FIELDS = 6
BLOCK_ROWS = 16
BLOCK_TOKENS = 32
BLOCK_OTHERS = 256


_SIZES = ["n", "n_rows", "start", "n_queries", "n_keys", "first_row", "first_query", "first_key"]


@triton.jit(do_not_specialize=_SIZES)
def _describe(
    PROMPTS, COLUMNS, ROWS, COLUMN, n, n_rows, start, n_queries, n_keys, first_row, first_query, first_key,
    prompt_stride, row_stride, query_stride, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One record for each row of a wave, and the column of each of its queries."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    each = tl.maximum(n_queries, 1)
    row, query = at // each, at % each
    live = at < n
    if GIVEN:
        column = tl.load(COLUMNS + row.to(tl.int64) * row_stride + query * query_stride, live, 0).to(tl.int32)
    else:
        column = start + query
    tl.store(COLUMN + first_query + at, column, live & (query < n_queries))
    first = live & (query == 0)
    prompt = tl.load(PROMPTS + row.to(tl.int64) * prompt_stride, first, 0).to(tl.int32)
    into = ROWS + first_row + row
    tl.store(into, prompt, first)
    tl.store(into + n_rows, tl.zeros_like(row) + start, first)
    tl.store(into + 2 * n_rows, tl.zeros_like(row) + n_queries, first)
    tl.store(into + 3 * n_rows, tl.zeros_like(row) + n_keys, first)
    tl.store(into + 4 * n_rows, first_query + row * n_queries, first)
    tl.store(into + 5 * n_rows, first_key + row * n_keys, first)


@triton.jit(do_not_specialize=["n_rows", "n_queries", "n_keys", "window"])
def _spread(
    ROWS, COLUMN, COUNTS, QUERIES, KEYS, n_rows, n_queries, n_keys, window, count_stride,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """The tables' entries of a few rows. ``COUNTS[prompt, column]`` is how many columns before are real."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < n_rows
    prompt = tl.load(ROWS + row, live, -1)
    query_at = tl.zeros([BLOCK], tl.int32)
    key_at = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, n_rows, OTHERS):
        other = begin + tl.arange(0, OTHERS)
        there = other < n_rows
        theirs = tl.load(ROWS + other, there, 2147483647)[None, :]
        before = (theirs < prompt[:, None]) | ((theirs == prompt[:, None]) & (other[None, :] < row[:, None]))
        query_at += tl.sum(tl.where(before, tl.load(ROWS + 2 * n_rows + other, there, 0)[None, :], 0), 1)
        key_at += tl.sum(tl.where(before, tl.load(ROWS + 3 * n_rows + other, there, 0)[None, :], 0), 1)
    start = tl.load(ROWS + n_rows + row, live, 0)[:, None]
    own_queries = tl.load(ROWS + 2 * n_rows + row, live, 0)[:, None]
    own_keys = tl.load(ROWS + 3 * n_rows + row, live, 0)[:, None]
    first_query = tl.load(ROWS + 4 * n_rows + row, live, 0)[:, None]
    first_key = tl.load(ROWS + 5 * n_rows + row, live, 0)[:, None]
    if PADDED:
        counts = COUNTS + tl.maximum(prompt, 0).to(tl.int64)[:, None] * count_stride
    query_at, key_at = query_at[:, None], key_at[:, None]
    for begin in range(0, tl.max(own_queries), TOKENS):
        query = begin + tl.arange(0, TOKENS)[None, :]
        asks = query < own_queries
        column = tl.load(COLUMN + first_query + query, asks, 0)
        first = tl.maximum(column - window + 1, 0)
        prefix_from, prefix_to = tl.minimum(first, start), tl.minimum(start, column + 1)
        own_from = key_at + tl.maximum(first - start, 0)
        own_to = key_at + tl.minimum(tl.maximum(column - start + 1, 0), own_keys)
        blind = tl.zeros_like(column)
        if PADDED:
            seen = tl.load(counts + column + 1, asks, 1) - tl.load(counts + first, asks, 0)
            blind = (seen == 0).to(tl.int32)
            prefix_from, prefix_to = (
                tl.where(seen == 0, 0, prefix_from),
                tl.where(seen == 0, start, prefix_to),
            )
            own_from = tl.where(seen == 0, key_at, own_from)
            own_to = tl.where(seen == 0, key_at + own_keys, own_to)
        into = QUERIES + query_at + query
        tl.store(into, first_query + query, asks)
        tl.store(into + n_queries, tl.zeros_like(column) + prompt[:, None], asks)
        tl.store(into + 2 * n_queries, prefix_from, asks)
        tl.store(into + 3 * n_queries, prefix_to, asks)
        tl.store(into + 4 * n_queries, own_from, asks)
        tl.store(into + 5 * n_queries, own_to, asks)
        tl.store(into + 6 * n_queries, blind, asks)
    for begin in range(0, tl.max(own_keys), TOKENS):
        key = begin + tl.arange(0, TOKENS)[None, :]
        there = key < own_keys
        real = tl.zeros([BLOCK, TOKENS], tl.int32) + 1
        if PADDED:
            real = tl.load(counts + start + key + 1, there, 1) - tl.load(counts + start + key, there, 0)
        into = KEYS + key_at + key
        tl.store(into, first_key + key, there)
        tl.store(into + n_keys, real, there)
        tl.store(into + 2 * n_keys, tl.zeros_like(real) + query_at, there)
        tl.store(into + 3 * n_keys, tl.zeros_like(real) + query_at + own_queries, there)


def plan_queries_and_keys(
    prompts: Sequence[Int[Tensor, " _row"]],
    starts: Sequence[int],
    stops: Sequence[int],
    columns: Sequence[Int[Tensor, "_row _query"] | None],
    real: Bool[Tensor, "prompt pos"] | None,
    window: int | None,
) -> tuple[Int[Tensor, "7 query"], Int[Tensor, "4 key"]]:
    """Both tables. Needs a launch for each wave and one more; reads nothing back."""
    device = prompts[0].device
    keys_of = [stop - start for start, stop in zip(starts, stops, strict=True)]
    queries_of = [n if given is None else given.shape[1] for n, given in zip(keys_of, columns, strict=True)]
    rows_of = [len(each) for each in prompts]
    n_rows = sum(rows_of)
    n_queries = sum(n * each for n, each in zip(rows_of, queries_of, strict=True))
    n_keys = sum(n * each for n, each in zip(rows_of, keys_of, strict=True))
    queries = torch.empty(QUERY_FIELDS, n_queries, dtype=torch.int32, device=device)
    keys = torch.empty(KEY_FIELDS, n_keys, dtype=torch.int32, device=device)
    if not n_rows:
        return queries, keys
    rows = torch.empty(ROW_FIELDS, n_rows, dtype=torch.int32, device=device)
    column = torch.empty(max(n_queries, 1), dtype=torch.int32, device=device)
    row = query = key = 0
    for own, start, given, asked, n_own in zip(prompts, starts, columns, queries_of, keys_of, strict=True):
        n = len(own) * max(asked, 1)
        if n:
            at = own if given is None else given
            strides = (0, 0) if given is None else given.stride()
            _describe[(triton.cdiv(n, 256),)](
                own, at, rows, column, n, n_rows, start, asked, n_own, row, query, key,
                own.stride(0), *strides, GIVEN=given is not None, BLOCK=256,
            )  # fmt: skip
        row, query, key = row + len(own), query + len(own) * asked, key + len(own) * n_own
    counts = None
    if real is not None:
        counts = torch.nn.functional.pad(real.cumsum(1, dtype=torch.int32), (1, 0))
    _spread[(triton.cdiv(n_rows, BLOCK_ROWS),)](
        rows, column, counts, queries, keys, n_rows, n_queries, n_keys,
        2**30 if window is None else window,
        0 if counts is None or len(counts) == 1 else counts.stride(0),
        PADDED=counts is not None, BLOCK=BLOCK_ROWS, TOKENS=BLOCK_TOKENS,
        OTHERS=BLOCK_OTHERS,
    )  # fmt: skip
    return queries, keys
