"""Kernels that begin rows and carry them on, and the functions that launch them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import dot, needs_widening, tuned, with_whole_vectors

FEW_DIRECTIONS = 4
"""Up to here each token reads its own directions; with more, tokens of one part share them in a product."""
SIZES_OF_ROWS = ["n_tokens", "n_columns", "start"]
"""What differs from wave to wave: no kernel is compiled again where one is 1 or a multiple of 16."""


@triton.jit
def take_statistics(x, inside, d_model, eps, NORM: tl.constexpr):
    """Mean (0 for RMSNorm) and 1 / deviation of rows held whole, zero outside ``inside``."""
    mean = tl.zeros([x.shape[0]], tl.float32)
    if NORM == "layernorm":
        mean = tl.sum(x, 1) / d_model
    centred = tl.where(inside, x - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt_rn(tl.sum(centred * centred, 1) / d_model + eps)


@triton.jit
def apply_gain(
    x,
    at,
    d_model,
    gain,
    bias,
    NORM: tl.constexpr,
    GAIN: tl.constexpr,
    BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Gain and bias on normalised rows, rounded where models round."""
    if GAIN:
        factor = tl.load(gain + at, mask=at < d_model, other=0.0).to(tl.float32)
        if NORM == "rmsnorm":
            x = x.to(DTYPE).to(tl.float32)
        elif NORM == "rmsnorm_plus_one":
            factor = 1.0 + factor
        x = x * factor[None]
    if BIAS:
        x = x + tl.load(bias + at, mask=at < d_model, other=0.0).to(tl.float32)[None]
    return x.to(DTYPE)


@triton.jit(do_not_specialize=SIZES_OF_ROWS)
def _start_rows(
    base, prompts, columns, where, new, old, part, directions, gain, bias, resid, normed,
    n_tokens, n_columns, start, d_model, eps,
    base_prompt, base_pos, new_prompt, new_pos, new_part, old_prompt, old_pos, old_part,
    direction_n, direction_rank, direction_d,
    COLUMNS: tl.constexpr, WHERE: tl.constexpr, OLD: tl.constexpr, PATCH: tl.constexpr, RANK: tl.constexpr,
    SHARED: tl.constexpr, NORM: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    # divided in 32 bits, which 64 make slow
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = token < n_tokens
    row = token // n_columns
    prompt = tl.load(prompts + row, mask=here, other=0).to(tl.int64)
    column = (start + token % n_columns).to(tl.int64)
    if COLUMNS:
        column = tl.load(columns + token, mask=here, other=0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = here[:, None] & (at < d_model)[None]
    patched = here
    if WHERE:
        patched = tl.load(where + token, mask=here, other=0) != 0
    written = inside & patched[:, None]
    read = inside
    if PATCH == "replace":
        read = inside & (patched[:, None] == 0)
    from_base = base + (prompt * base_prompt + column * base_pos)[:, None] + at[None]
    x = tl.load(from_base, mask=read, other=0.0).to(tl.float32)
    if PATCH == "replace" or PATCH == "add":
        from_new = new + (prompt * new_prompt + column * new_pos)[:, None] + at[None]
        change = tl.load(from_new, mask=written, other=0.0).to(tl.float32)
        if OLD:
            from_old = old + (prompt * old_prompt + column * old_pos)[:, None] + at[None]
            change -= tl.load(from_old, mask=written, other=0.0).to(tl.float32)
        x += change
    if PATCH == "directions":
        own = tl.load(part + row, mask=here, other=0).to(tl.int64)
        which = own * 0 if SHARED else own
        for k in tl.static_range(RANK):
            from_new = new + prompt * new_prompt + column * new_pos + own * new_part + k
            amount = tl.load(from_new, mask=patched, other=0.0).to(tl.float32)
            if OLD:
                from_old = old + prompt * old_prompt + column * old_pos + own * old_part + k
                amount -= tl.load(from_old, mask=patched, other=0.0).to(tl.float32)
            # a decoder that stands transposed may have more entries than 32 bits count
            along = directions + (which * direction_n + k * direction_rank)[:, None]
            along += at[None].to(tl.int64) * direction_d
            x += amount[:, None] * tl.load(along, mask=written, other=0.0).to(tl.float32)
    to = token.to(tl.int64)[:, None] * d_model + at[None]
    DTYPE: tl.constexpr = resid.dtype.element_ty
    rounded = x.to(DTYPE)
    tl.store(resid + to, rounded, mask=inside)
    if NORM != "none":
        x = rounded.to(tl.float32)
        mean, rate = take_statistics(x, inside, d_model, eps, NORM)
        x = (x - mean[:, None]) * rate[:, None]
        tl.store(normed + to, apply_gain(x, at, d_model, gain, bias, NORM, GAIN, BIAS, DTYPE), mask=inside)


@triton.jit(do_not_specialize=["n_tokens"])
def _add_updates(
    before, first, second, gain, bias, resid, normed, n_tokens, d_model, eps,
    UPDATES: tl.constexpr, NORM: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    at = tl.arange(0, BLOCK)
    inside = (token < n_tokens)[:, None] & (at < d_model)[None]
    to = token[:, None] * d_model + at[None]
    x = tl.load(before + to, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(first + to, mask=inside, other=0.0).to(tl.float32)
    if UPDATES == 2:
        x += tl.load(second + to, mask=inside, other=0.0).to(tl.float32)
    DTYPE: tl.constexpr = resid.dtype.element_ty
    rounded = x.to(DTYPE)
    tl.store(resid + to, rounded, mask=inside)
    if NORM != "none":
        x = rounded.to(tl.float32)
        mean, rate = take_statistics(x, inside, d_model, eps, NORM)
        x = (x - mean[:, None]) * rate[:, None]
        tl.store(normed + to, apply_gain(x, at, d_model, gain, bias, NORM, GAIN, BIAS, DTYPE), mask=inside)


@tuned(
    [
        # few tokens: more programs, and the fewest registers
        triton.Config({"TOKENS": 16, "TILE": 64, "RANKS": 16}, num_warps=4, num_stages=2),
        triton.Config({"TOKENS": 32, "TILE": 64, "RANKS": 32}, num_warps=4, num_stages=2),
        # long ones: directions are read less often
        triton.Config({"TOKENS": 64, "TILE": 64, "RANKS": 32}, num_warps=8, num_stages=2),
        triton.Config({"TOKENS": 32, "TILE": 128, "RANKS": 32}, num_warps=8, num_stages=2),
    ],
    key=["d_model", "rank", "SIZE"],
)
@triton.jit(do_not_specialize=SIZES_OF_ROWS)
def _start_rows_by_product(
    base, prompts, columns, where, new, old, part, order, directions, gain, bias, resid, normed,
    n_tokens, n_columns, start, d_model, rank, eps,
    base_prompt, base_pos, new_prompt, new_pos, new_part, old_prompt, old_pos, old_part,
    direction_n, direction_rank, direction_d,
    COLUMNS: tl.constexpr, WHERE: tl.constexpr, OLD: tl.constexpr, SHARED: tl.constexpr,
    NORM: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr, WIDEN: tl.constexpr,
    SIZE: tl.constexpr, RANKS: tl.constexpr, TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # rows come sorted by their part, so that few parts meet in one tile
    turn = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = turn < n_tokens
    row = tl.load(order + turn // n_columns, mask=here, other=0).to(tl.int64)
    token = row * n_columns + turn % n_columns
    prompt = tl.load(prompts + row, mask=here, other=0).to(tl.int64)
    column = (start + turn % n_columns).to(tl.int64)
    if COLUMNS:
        column = tl.load(columns + token, mask=here, other=0).to(tl.int64)
    patched = here
    if WHERE:
        patched = tl.load(where + token, mask=here, other=0) != 0
    own = tl.load(part + row, mask=here, other=0).to(tl.int64)
    which = own * 0 if SHARED else own
    DTYPE: tl.constexpr = resid.dtype.element_ty
    from_base = base + prompt * base_prompt + column * base_pos
    from_new = new + prompt * new_prompt + column * new_pos + own * new_part
    if OLD:
        from_old = old + prompt * old_prompt + column * old_pos + own * old_part
    mean = tl.zeros([TOKENS], tl.float32)
    spread = tl.zeros([TOKENS], tl.float32)
    for first in range(0, d_model, TILE):
        at = first + tl.arange(0, TILE)
        inside = here[:, None] & (at < d_model)[None]
        change = tl.zeros([TOKENS, TILE], tl.float32)
        nobody = 1 << 40
        present = tl.min(tl.where(patched, which, nobody), 0)
        while present < nobody:
            mine = patched & (which == present)
            along = tl.zeros([TOKENS, TILE], tl.float32)
            for k in range(0, rank, RANKS):
                ranks = k + tl.arange(0, RANKS)
                held = mine[:, None] & (ranks < rank)[None]
                amount = tl.load(from_new[:, None] + ranks[None], mask=held, other=0.0).to(tl.float32)
                if OLD:
                    amount -= tl.load(from_old[:, None] + ranks[None], mask=held, other=0.0).to(tl.float32)
                into = directions + present * direction_n + ranks[:, None] * direction_rank
                tile = tl.load(
                    into + at[None].to(tl.int64) * direction_d,
                    mask=(ranks < rank)[:, None] & (at < d_model)[None],
                    other=0.0,
                )
                along = dot(amount.to(DTYPE), tile, along, WIDEN)
            change = tl.where(mine[:, None], along, change)
            present = tl.min(tl.where(patched & (which > present), which, nobody), 0)
        x = tl.load(from_base[:, None] + at[None], mask=inside, other=0.0).to(tl.float32)
        rounded = (x + change).to(DTYPE)
        tl.store(resid + token[:, None] * d_model + at[None], rounded, mask=inside)
        if NORM != "none":
            x = rounded.to(tl.float32)
            if NORM == "layernorm":
                # the mean and squared deviations of tiles joined, which no offset of the stream upsets
                n = tl.minimum(d_model - first, TILE)
                own_mean = tl.sum(x, 1) / n
                off = tl.where(inside, x - own_mean[:, None], 0.0)
                apart = own_mean - mean
                mean += apart * n / (first + n)
                spread += tl.sum(off * off, 1) + apart * apart * (n * (first / (first + n)))
            else:
                spread += tl.sum(x * x, 1)
    if NORM != "none":
        rate = 1.0 / tl.sqrt_rn(spread / d_model + eps)
        # what is read again was written by other threads of this program
        tl.debug_barrier()
        for first in range(0, d_model, TILE):
            at = first + tl.arange(0, TILE)
            inside = here[:, None] & (at < d_model)[None]
            to = token[:, None] * d_model + at[None]
            x = tl.load(resid + to, mask=inside, other=0.0).to(tl.float32)
            x = (x - mean[:, None]) * rate[:, None]
            tl.store(
                normed + to, apply_gain(x, at, d_model, gain, bias, NORM, GAIN, BIAS, DTYPE), mask=inside
            )


def size_of(n_tokens: int) -> int:
    """Class of sizes that kernels are tuned for: what suits a check of some tokens does not suit a sweep."""
    return sum(n_tokens >= bound for bound in (1024, 16384))


@cache
def whole_rows(kernel: Any, block: int) -> Any:
    """A kernel that holds whole rows of up to ``block`` entries, tuned over how many tokens share a program."""
    tokens = max(1, 2048 // block)
    # entries a thread: 16 are two to four loads in flight; twice that hides more latency; half leaves more warps
    shapes = [(tokens, 16), (tokens, 8), (2 * tokens, 32 if block < 8192 else 16), (max(1, tokens // 2), 16)]
    sizes = dict.fromkeys((n, min(32, max(1, n * block // (32 * each)))) for n, each in shapes)
    configs = [triton.Config({"TOKENS": n}, num_warps=warps) for n, warps in sizes if n * block <= 16384]
    return tuned(configs, key=["d_model", "SIZE"])(kernel)


def launch_start(
    base: Tensor,
    prompts: Tensor,
    columns: Tensor | None,
    start: int,
    stop: int,
    where: Tensor | None,
    new: Tensor | None,
    old: Tensor | None,
    part: Tensor | None,
    directions: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The streams of rows that begin, and their norm; an empty tensor where ``norm`` is ``"none"``."""
    n_columns = stop - start if columns is None else columns.shape[1]
    n_rows, d_model = len(prompts), base.shape[2]
    resid = base.new_empty(n_rows, n_columns, d_model)
    normed = torch.empty_like(resid) if norm != "none" else base.new_empty(0)
    n_tokens = n_rows * n_columns
    if not resid.numel():
        return resid, normed
    tables = {
        name: None if table is None else with_whole_vectors(table)
        for name, table in (("base", base), ("new", new), ("old", old))
    }
    shared = directions is not None and len(directions) == 1
    arguments = {
        **tables,
        "prompts": prompts.contiguous(),
        "columns": None if columns is None else columns.contiguous(),
        "where": None if where is None else where.contiguous().view(torch.uint8),
        "part": None if part is None else part.contiguous(),
        "directions": directions,
        "gain": None if gain is None else gain.contiguous(),
        "bias": None if bias is None else bias.contiguous(),
        "resid": resid,
        "normed": normed,
        "n_tokens": n_tokens,
        "n_columns": n_columns,
        "start": start,
        "d_model": d_model,
        "eps": eps,
        **{f"{name}_{axis}": _stride(tables[name], i) for name, axis, i in _STRIDES},
        **{
            f"direction_{axis}": _stride(directions, i) for i, axis in enumerate(("n", "rank", "d"))
        },
        "COLUMNS": columns is not None,
        "WHERE": where is not None,
        "OLD": old is not None,
        "SHARED": shared,
        "NORM": norm,
        "GAIN": gain is not None,
        "BIAS": bias is not None,
        "SIZE": size_of(n_tokens),
    }  # fmt: skip
    rank = 0 if directions is None else directions.shape[1]
    if rank > FEW_DIRECTIONS:
        assert part is not None
        arguments["order"] = _by_part(part, shared)
        _start_rows_by_product[lambda meta: (triton.cdiv(n_tokens, meta["TOKENS"]),)](
            **arguments,
            rank=rank,
            WIDEN=needs_widening(base.dtype),
        )
        return resid, normed
    patch = "directions" if rank else "replace" if old is None else "add"
    if new is None or (directions is not None and not rank):
        # a change along no direction is none, and its tables have no entries
        patch = "none"
    block = max(16, triton.next_power_of_2(d_model))
    whole_rows(_start_rows, block)[lambda meta: (triton.cdiv(n_tokens, meta["TOKENS"]),)](
        **arguments, PATCH=patch, RANK=rank, BLOCK=block
    )
    return resid, normed


_STRIDES = (
    ("base", "prompt", 0),
    ("base", "pos", 1),
    *((name, axis, i) for name in ("new", "old") for i, axis in enumerate(("prompt", "pos", "part"))),
)


def launch_updates(
    before: Tensor,
    first: Tensor,
    second: Tensor | None,
    gain: Tensor | None,
    bias: Tensor | None,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Streams with one or two updates added, and their norm."""
    d_model = before.shape[-1]
    resid = torch.empty(before.shape, dtype=before.dtype, device=before.device)
    normed = torch.empty_like(resid) if norm != "none" else before.new_empty(0)
    if not resid.numel():
        return resid, normed
    n_tokens = resid.numel() // d_model
    block = max(16, triton.next_power_of_2(d_model))
    whole_rows(_add_updates, block)[lambda meta: (triton.cdiv(n_tokens, meta["TOKENS"]),)](
        before.contiguous(),
        first.contiguous(),
        None if second is None else second.contiguous(),
        None if gain is None else gain.contiguous(),
        None if bias is None else bias.contiguous(),
        resid,
        normed,
        n_tokens,
        d_model,
        eps,
        UPDATES=1 if second is None else 2,
        NORM=norm,
        GAIN=gain is not None,
        BIAS=bias is not None,
        BLOCK=block,
        SIZE=size_of(n_tokens),
    )
    return resid, normed


def _by_part(part: Tensor, shared: bool) -> Tensor:
    """Rows sorted by their part, where parts have directions of their own."""
    if shared:
        return torch.arange(len(part), device=part.device)
    return part.argsort(stable=True)


def _stride(table: Tensor | None, axis: int) -> int:
    return 0 if table is None or axis >= table.ndim else table.stride(axis)
