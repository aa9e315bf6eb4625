"""Kernels of the gradients, none with atomics: what adds up does so in one program, in the order of rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.inject.triton import size_of, take_statistics, whole_rows
from interp.kernels.pieces import dot, needs_widening, tuned


@triton.jit(do_not_specialize=["n_tokens"])
def _norm_backward(
    stream, at_normed, at_stream, gain, out, means, rates, n_tokens, d_model, eps,
    RESID: tl.constexpr, NORM: tl.constexpr, GAIN: tl.constexpr, KEEP: tl.constexpr,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    at = tl.arange(0, BLOCK)
    here = token < n_tokens
    inside = here[:, None] & (at < d_model)[None]
    to = token[:, None] * d_model + at[None]
    x = tl.load(stream + to, mask=inside, other=0.0).to(tl.float32)
    mean, rate = take_statistics(x, inside, d_model, eps, NORM)
    if KEEP:
        tl.store(means + token, mean, mask=here)
        tl.store(rates + token, rate, mask=here)
    x = tl.where(inside, (x - mean[:, None]) * rate[:, None], 0.0)
    g = tl.load(at_normed + to, mask=inside, other=0.0).to(tl.float32)
    if GAIN:
        factor = tl.load(gain + at, mask=at < d_model, other=0.0).to(tl.float32)
        if NORM == "rmsnorm_plus_one":
            factor = 1.0 + factor
        g = g * factor[None]
    d = g - x * (tl.sum(g * x, 1) / d_model)[:, None]
    if NORM == "layernorm":
        d -= (tl.sum(g, 1) / d_model)[:, None]
    d = d * rate[:, None]
    if RESID:
        d += tl.load(at_stream + to, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + to, d.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gain_backward(
    stream, at_normed, means, rates, gains, biases, n_tokens, d_model, n_each,
    TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    part = tl.program_id(1).to(tl.int64)
    by_gain = tl.zeros([TILE], tl.float32)
    by_bias = tl.zeros([TILE], tl.float32)
    for first in range(0, n_each, TOKENS):
        token = part * n_each + first + tl.arange(0, TOKENS)
        here = (token < n_tokens) & (first + tl.arange(0, TOKENS) < n_each)
        inside = here[:, None] & (at < d_model)[None]
        to = token[:, None] * d_model + at[None]
        mean = tl.load(means + token, mask=here, other=0.0)
        rate = tl.load(rates + token, mask=here, other=0.0)
        x = tl.load(stream + to, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(at_normed + to, mask=inside, other=0.0).to(tl.float32)
        by_gain += tl.sum(g * (x - mean[:, None]) * rate[:, None], 0)
        by_bias += tl.sum(g, 0)
    tl.store(gains + part * d_model + at, by_gain, mask=at < d_model)
    tl.store(biases + part * d_model + at, by_bias, mask=at < d_model)


@triton.jit
def _sum_by_key(
    values, keys, order, where, out, n_tokens, width,
    WHERE: tl.constexpr, CHOSEN: tl.constexpr, TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # one program for every token in the order of keys, of which the first of a key adds up all of that key
    turn = tl.program_id(0).to(tl.int64)
    key = tl.load(keys + turn)
    earlier = tl.load(keys + turn - 1, mask=turn > 0, other=-1)
    if earlier != key:
        at = tl.program_id(1) * TILE + tl.arange(0, TILE)
        total = tl.zeros([TILE], tl.float32)
        found = TOKENS
        while found == TOKENS:
            turns = turn + tl.arange(0, TOKENS)
            same = (turns < n_tokens) & (tl.load(keys + turns, mask=turns < n_tokens, other=-1) == key)
            token = tl.load(order + turns, mask=same, other=0)
            taken = same
            if WHERE:
                taken = same & ((tl.load(where + token, mask=same, other=0) != 0) == CHOSEN)
            from_values = values + token[:, None] * width + at[None]
            inside = taken[:, None] & (at < width)[None]
            total += tl.sum(tl.load(from_values, mask=inside, other=0.0).to(tl.float32), 0)
            found = tl.sum(same.to(tl.int32), 0)
            turn += TOKENS
        tl.store(out + key * width + at, total.to(out.dtype.element_ty), mask=at < width)


@tuned(
    [
        triton.Config({"TOKENS": 16, "TILE": 32, "RANKS": 16}, num_warps=4, num_stages=2),
        # many tokens of a part
        triton.Config({"TOKENS": 64, "TILE": 32, "RANKS": 32}, num_warps=8, num_stages=3),
    ],
    key=["d_model", "rank", "SIZE"],
)
@triton.jit
def _coefficients_backward(
    gradient, where, part, order, directions, out, n_tokens, n_columns, d_model, rank,
    direction_n, direction_rank, direction_d,
    WHERE: tl.constexpr, SHARED: tl.constexpr, WIDEN: tl.constexpr,
    SIZE: tl.constexpr, RANKS: tl.constexpr, TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    turn = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = turn < n_tokens
    row = tl.load(order + turn // n_columns, mask=here, other=0).to(tl.int64)
    token = row * n_columns + turn % n_columns
    patched = here
    if WHERE:
        patched = tl.load(where + token, mask=here, other=0) != 0
    own = tl.load(part + row, mask=here, other=0).to(tl.int64)
    which = own * 0 if SHARED else own
    ranks = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    found = tl.zeros([TOKENS, RANKS], tl.float32)
    nobody = 1 << 40
    present = tl.min(tl.where(patched, which, nobody), 0)
    while present < nobody:
        mine = patched & (which == present)
        along = tl.zeros([TOKENS, RANKS], tl.float32)
        for first in range(0, d_model, TILE):
            at = first + tl.arange(0, TILE)
            inside = mine[:, None] & (at < d_model)[None]
            g = tl.load(gradient + token[:, None] * d_model + at[None], mask=inside, other=0.0)
            into = directions + present * direction_n + ranks[None] * direction_rank
            tile = tl.load(
                into + at[:, None].to(tl.int64) * direction_d,
                mask=(at < d_model)[:, None] & (ranks < rank)[None],
                other=0.0,
            )
            along = dot(g, tile, along, WIDEN)
        found = tl.where(mine[:, None], along, found)
        present = tl.min(tl.where(patched & (which > present), which, nobody), 0)
    to = out + token[:, None] * rank + ranks[None]
    tl.store(to, found.to(out.dtype.element_ty), mask=here[:, None] & (ranks < rank)[None])


@tuned(
    [
        triton.Config({"TOKENS": 32, "TILE": 64, "RANKS": 32}, num_warps=4, num_stages=2),
        triton.Config({"TOKENS": 64, "TILE": 64, "RANKS": 32}, num_warps=4, num_stages=2),  # long sums
    ],
    key=["d_model", "rank", "SIZE"],
)
@triton.jit
def _directions_backward(
    gradient, amounts, order, ends, out, n, n_columns, d_model, rank, n_splits,
    WIDEN: tl.constexpr, SIZE: tl.constexpr,
    RANKS: tl.constexpr, TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    which = (tl.program_id(0) // n_splits).to(tl.int64)
    split = tl.program_id(0) % n_splits
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    ranks = tl.program_id(2) * RANKS + tl.arange(0, RANKS)
    # counted in 32 bits, for 64 are divided slowly
    first = tl.load(ends + which).to(tl.int32) * n_columns
    last = tl.load(ends + which + 1).to(tl.int32) * n_columns
    each = tl.cdiv(tl.cdiv(last - first, n_splits), TOKENS) * TOKENS
    first += split * each
    last = tl.minimum(last, first + each)
    found = tl.zeros([RANKS, TILE], tl.float32)
    while first < last:
        turn = first + tl.arange(0, TOKENS)
        here = turn < last
        row = tl.load(order + turn // n_columns, mask=here, other=0).to(tl.int64)
        token = row * n_columns + turn % n_columns
        from_amounts = amounts + token[None] * rank + ranks[:, None]
        amount = tl.load(from_amounts, mask=here[None] & (ranks < rank)[:, None], other=0.0)
        from_gradient = gradient + token[:, None] * d_model + at[None]
        g = tl.load(from_gradient, mask=here[:, None] & (at < d_model)[None], other=0.0)
        found = dot(amount, g, found, WIDEN)
        first += TOKENS
    to = out + ((split.to(tl.int64) * n + which) * rank + ranks)[:, None] * d_model + at[None]
    tl.store(to, found, mask=(ranks < rank)[:, None] & (at < d_model)[None])


def launch_norm_backward(
    stream: Tensor,
    at_normed: Tensor,
    at_stream: Tensor | None,
    gain: Tensor | None,
    norm: str,
    eps: float,
    wants_gain: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of streams, gain and bias; the latter two are empty where ``wants_gain`` is false."""
    d_model = stream.shape[-1]
    n_tokens = stream.numel() // d_model
    out = torch.empty(stream.shape, dtype=stream.dtype, device=stream.device)
    n_kept = n_tokens if wants_gain else 0
    means, rates = (stream.new_empty(n_kept, dtype=torch.float32) for _ in range(2))
    if not n_tokens:
        gains = stream.new_zeros(d_model if wants_gain else 0)
        return out, gains, gains.clone()
    at_normed, stream = at_normed.contiguous(), stream.contiguous()
    block = max(16, triton.next_power_of_2(d_model))
    whole_rows(_norm_backward, block)[lambda meta: (triton.cdiv(n_tokens, meta["TOKENS"]),)](
        stream,
        at_normed,
        None if at_stream is None else at_stream.contiguous(),
        None if gain is None else gain.contiguous(),
        out,
        means,
        rates,
        n_tokens,
        d_model,
        eps,
        RESID=at_stream is not None,
        NORM=norm,
        GAIN=gain is not None,
        KEEP=wants_gain,
        BLOCK=block,
        SIZE=size_of(n_tokens),
    )
    if not wants_gain:
        return out, stream.new_empty(0), stream.new_empty(0)
    n_parts = min(128, triton.cdiv(n_tokens, 64))
    sums = stream.new_empty(2, n_parts, d_model, dtype=torch.float32)
    _gain_backward[(triton.cdiv(d_model, 128), n_parts)](
        stream,
        at_normed,
        means,
        rates,
        sums[0],
        sums[1],
        n_tokens,
        d_model,
        triton.cdiv(n_tokens, n_parts),
        TOKENS=16,
        TILE=128,
    )
    gains, biases = sums.sum(1).to(stream.dtype)
    return out, gains.clone(), biases.clone()


def launch_sum_by_key(
    values: Tensor, keys: Tensor, order: Tensor, n: int, where: Tensor | None, chosen: bool
) -> Tensor:
    """Sums of the rows of ``values`` by their key, which come sorted with the order that sorts them."""
    width = values.shape[1]
    out = values.new_zeros(n, width)
    if not values.numel():
        return out
    tile = min(128, max(16, triton.next_power_of_2(width)))
    _sum_by_key[(len(values), triton.cdiv(width, tile))](
        values.contiguous(),
        keys,
        order,
        None if where is None else where.contiguous().view(torch.uint8),
        out,
        len(values),
        width,
        WHERE=where is not None,
        CHOSEN=chosen,
        TOKENS=16,
        TILE=tile,
    )
    return out


def launch_coefficients_backward(
    gradient: Tensor, where: Tensor | None, part: Tensor, directions: Tensor
) -> Tensor:
    """Gradients [row, pos, rank] of what multiplies each row's directions."""
    n_rows, n_columns, d_model = gradient.shape
    n, rank, _ = directions.shape
    out = gradient.new_empty(n_rows, n_columns, rank)
    if not out.numel():
        return out
    n_tokens = n_rows * n_columns
    shared = n == 1
    order = torch.arange(n_rows, device=part.device) if shared else part.argsort(stable=True)
    _coefficients_backward[
        lambda meta: (triton.cdiv(n_tokens, meta["TOKENS"]), triton.cdiv(rank, meta["RANKS"]))
    ](
        gradient.contiguous(),
        None if where is None else where.contiguous().view(torch.uint8),
        part.contiguous(),
        order,
        directions,
        out,
        n_tokens,
        n_columns,
        d_model,
        rank,
        *directions.stride(),
        WHERE=where is not None,
        SHARED=shared,
        WIDEN=needs_widening(gradient.dtype),
        SIZE=size_of(n_tokens),
    )
    return out


def launch_directions_backward(gradient: Tensor, amounts: Tensor, part: Tensor, n: int) -> Tensor:
    """Gradients [n, rank, d_model] of directions, by what multiplied them in each row."""
    n_rows, n_columns, d_model = gradient.shape
    rank = amounts.shape[2]
    if not gradient.numel() or not rank:
        return gradient.new_zeros(n, rank, d_model)
    which = torch.zeros_like(part) if n == 1 else part
    held, order = which.sort(stable=True)
    ends = torch.searchsorted(held, torch.arange(n + 1, device=part.device))
    programs = n * triton.cdiv(d_model, 64) * triton.cdiv(rank, 32)
    # few parts: their sums are cut so that all multiprocessors have some
    n_splits = max(1, min(64, 264 // programs, triton.cdiv(n_rows * n_columns, 64)))
    out = gradient.new_empty(n_splits, n, rank, d_model, dtype=torch.float32)
    _directions_backward[
        lambda meta: (
            n * n_splits,
            triton.cdiv(d_model, meta["TILE"]),
            triton.cdiv(rank, meta["RANKS"]),
        )
    ](
        gradient.contiguous(),
        amounts.contiguous(),
        order,
        ends,
        out,
        n,
        n_columns,
        d_model,
        rank,
        n_splits,
        WIDEN=needs_widening(gradient.dtype),
        SIZE=size_of(n_rows * n_columns),
    )
    return out.sum(0).to(gradient.dtype)
