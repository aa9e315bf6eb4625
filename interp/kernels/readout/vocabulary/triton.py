"""Tiles of logits that live in registers only: summed up online, or turned into slopes for the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import dot, needs_widening, tanh, tuned

MARK = 128
"""Tokens to a mark: whether one of them is a given token of a prompt. Tiles are whole numbers of marks wide."""

_MARK: tl.constexpr = tl.constexpr(MARK)


def _config(rows: int, columns: int, depth: int, warps: int, stages: int) -> triton.Config:
    sizes = {"BLOCK_R": rows, "BLOCK_V": columns, "BLOCK_D": depth}
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


# 32 rows: weights stream through, and nothing is computed for rows that are not there. 128: each weight is read
# for twice as many. 128 x 256: the ratio of products to loads that tensor cores need
_HALF = [
    _config(64, 128, 64, 4, 4),
    _config(32, 128, 64, 4, 4),
    _config(128, 128, 64, 8, 3),
    _config(128, 256, 64, 8, 3),
]
# fp32 takes more registers, and so does a tile of the reference's logits: larger tiles would spill
_WIDE = [_config(64, 128, 32, 8, 3), _config(32, 128, 32, 8, 3), _config(128, 128, 32, 8, 3)]
_HALF_COMPARED = [_config(32, 128, 64, 4, 4), _config(64, 128, 64, 8, 3)]
_WIDE_COMPARED = [_config(32, 128, 32, 8, 3), _config(64, 128, 32, 8, 3)]


def _tune(kernel: Any) -> Callable[[torch.dtype, bool, bool], Any]:
    """The kernel with configs that suit the inputs' dtype, a reference, and others than given tokens."""
    key = ["D", "d_vocab", "size"]
    half, half_others, half_compared = (tuned(c, key)(kernel) for c in (_HALF, _HALF[:3], _HALF_COMPARED))
    wide, wide_compared = (tuned(c, key)(kernel) for c in (_WIDE, _WIDE_COMPARED))

    def choose(dtype: torch.dtype, compared: bool, others: bool) -> Any:
        if dtype == torch.float32:
            return wide_compared if compared else wide
        if compared:
            return half_compared
        return half_others if others else half

    return choose


@triton.jit
def _excess(p, gap, ahead):
    """``exp(ahead) - p``, which is ``p * (exp(-gap) - 1)``, exact to rounding also where both are nearly equal."""
    near = tl.abs(gap) < 0.1
    y = tl.where(near, -gap, 0.0)
    series = y * (1.0 + y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0)))))
    # beyond 80 any number says that the two are far apart
    return tl.where(near, p * series, tl.exp(tl.minimum(ahead, 80.0)) - p)


@triton.jit
def _log1p(y):
    """``log(1 + y)`` of fp32, exact to rounding also near 0."""
    u = 1.0 + y
    return tl.where(u == 1.0, y, tl.log(u) * (y / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _products(
    x, W, bias, rows, columns, inside, n, cap, w_d, w_v,
    D: tl.constexpr, CAP: tl.constexpr, WIDEN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile of logits, uncapped divided by the cap if there is one, for columns that are ``inside``."""
    depth = tl.arange(0, BLOCK_D)
    at_x = x + rows[:, None].to(tl.int64) * D + depth[None, :]
    at_W = W + depth[:, None].to(tl.int64) * w_d + columns[None, :].to(tl.int64) * w_v
    tile = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, D, BLOCK_D):
        if D % BLOCK_D == 0:
            a = tl.load(at_x, mask=rows[:, None] < n, other=0.0)
            b = tl.load(at_W, mask=inside[None, :], other=0.0)
        else:
            left = depth < D - start
            a = tl.load(at_x, mask=(rows[:, None] < n) & left[None, :], other=0.0)
            b = tl.load(at_W, mask=inside[None, :] & left[:, None], other=0.0)
        tile = dot(a, b, tile, WIDEN)
        at_x += BLOCK_D
        at_W += BLOCK_D * w_d
    if bias is not None:
        tile += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if CAP:
        tile = tanh(tile / cap)
    return tile


@triton.jit
def _scan(
    x, W, bias, tokens, prompts, found, marks, reference, reference_top,
    most, total, place, other, above, along, apart, weight,
    n, k, c, d_vocab, pitch, n_marks, chunk, cap, w_d, w_v, size,
    D: tl.constexpr, CAP: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One chunk of the vocabulary for a block of rows; partial results [chunk, row] of whatever is not ``None``."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    there = rows < n
    prompt = (rows // k).to(tl.int64)
    if prompts is not None:
        prompt = tl.load(prompts + prompt, mask=there, other=0).to(tl.int64)
    m = tl.full([BLOCK_R], float("-inf"), tl.float32)
    s = tl.zeros([BLOCK_R], tl.float32)
    if place is not None:
        where = tl.zeros([BLOCK_R], tl.int32)
    if other is not None:
        rest = tl.full([BLOCK_R], float("-inf"), tl.float32)
        n_above = tl.zeros([BLOCK_R], tl.int32)
        best = tl.full([BLOCK_R], float("-inf"), tl.float32)
        for j in range(c):
            token = tl.load(tokens + prompt * c + j, mask=there, other=-1)
            logit = tl.load(found + rows.to(tl.int64) * c + j, mask=there, other=0.0)
            best = tl.maximum(best, tl.where(token >= 0, logit, float("-inf")))
    if reference is not None:
        line = prompt * k + rows % k
        top = tl.load(reference_top + line, mask=there, other=0.0)
        u = tl.zeros([BLOCK_R], tl.float32)
        v = tl.zeros([BLOCK_R], tl.float32)
        w = tl.zeros([BLOCK_R], tl.float32)
    begin = tl.program_id(1) * chunk
    end = tl.minimum(begin + chunk, d_vocab)
    for start in range(begin, end, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        inside = columns < end
        logits = _products(x, W, bias, rows, columns, inside, n, cap, w_d, w_v, D, CAP, WIDEN, BLOCK_D)
        if CAP:
            logits *= cap
        if reference is not None:
            ahead = line[:, None] * pitch + columns[None, :]
            theirs = tl.load(
                reference + ahead, mask=there[:, None] & inside[None, :], other=float("-inf")
            ).to(tl.float32)
            p = tl.exp(theirs - top[:, None])
            gap = theirs - logits
            # what the reference rules out adds nothing, though 0 * inf would be NaN
            u += tl.sum(p * tl.where(p == 0.0, 0.0, gap), axis=1)
            excess = _excess(p, gap, logits - top[:, None])
            v += tl.sum(tl.where(inside[None, :], excess, 0.0), axis=1)
            w += tl.sum(p, axis=1)
        logits = tl.where(inside[None, :], logits, float("-inf"))
        if place is not None:
            largest, at = tl.max(logits, axis=1, return_indices=True)
            where = tl.where(largest > m, start + at.to(tl.int32), where)
        else:
            largest = tl.max(logits, axis=1)
        m_new = tl.maximum(m, largest)
        safe = tl.where(tl.abs(m_new) == float("inf"), 0.0, m_new)
        s = s * tl.exp(m - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
        m = m_new
        if other is not None:
            marked = tl.zeros([BLOCK_R], tl.int32)
            for part in tl.static_range(BLOCK_V // _MARK):
                at_mark = marks + prompt * n_marks + (start // _MARK + part)
                marked += tl.load(at_mark, mask=there, other=0).to(tl.int32)
            if tl.max(marked, axis=0) > 0:
                for j in range(c):
                    token = tl.load(tokens + prompt * c + j, mask=there, other=-1)
                    logits = tl.where(columns[None, :] == token[:, None], float("-inf"), logits)
                rest = tl.maximum(rest, tl.max(logits, axis=1))
                n_above += tl.sum((logits > best[:, None]).to(tl.int32), axis=1)
            else:
                rest = tl.maximum(rest, largest)
                n_above += tl.sum((logits > best[:, None]).to(tl.int32), axis=1)
    own = tl.program_id(1).to(tl.int64) * n + rows
    tl.store(most + own, m, mask=there)
    tl.store(total + own, s, mask=there)
    if place is not None:
        tl.store(place + own, where, mask=there)
    if other is not None:
        tl.store(other + own, rest, mask=there)
        tl.store(above + own, n_above, mask=there)
    if reference is not None:
        tl.store(along + own, u, mask=there)
        tl.store(apart + own, v, mask=there)
        tl.store(weight + own, w, mask=there)


_tuned_scan = _tune(_scan)


@triton.jit
def _join(
    most, total, place, other, above, along, apart, weight, reference_top, prompts,
    log_sum_exp, reference_log_sum_exp, divergence, largest, argmax, largest_other, n_above,
    n, k, n_chunks, BLOCK: tl.constexpr,
):  # fmt: skip
    """The chunks' partial results joined in order."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = rows < n
    m = tl.full([BLOCK], float("-inf"), tl.float32)
    s = tl.zeros([BLOCK], tl.float32)
    where = tl.zeros([BLOCK], tl.int32)
    rest = tl.full([BLOCK], float("-inf"), tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    u = tl.zeros([BLOCK], tl.float32)
    v = tl.zeros([BLOCK], tl.float32)
    w = tl.zeros([BLOCK], tl.float32)
    for part in range(n_chunks):
        own = tl.cast(part, tl.int64) * n + rows
        m_part = tl.load(most + own, mask=there, other=0.0)
        s_part = tl.load(total + own, mask=there, other=1.0)
        if place is not None:
            where = tl.where(m_part > m, tl.load(place + own, mask=there, other=0), where)
        m_new = tl.maximum(m, m_part)
        safe = tl.where(tl.abs(m_new) == float("inf"), 0.0, m_new)
        # a chunk's sum is relative to its largest logit, or to 0 where that is infinite
        m_from = tl.where(m_part == float("inf"), 0.0, m_part)
        s = s * tl.exp(m - safe) + s_part * tl.exp(m_from - safe)
        m = m_new
        if other is not None:
            rest = tl.maximum(rest, tl.load(other + own, mask=there, other=float("-inf")))
            count += tl.load(above + own, mask=there, other=0)
        if weight is not None:
            u += tl.load(along + own, mask=there, other=0.0)
            v += tl.load(apart + own, mask=there, other=0.0)
            w += tl.load(weight + own, mask=there, other=1.0)
    safe = tl.where(tl.abs(m) == float("inf"), 0.0, m)
    norm = safe + tl.log(s)
    tl.store(log_sum_exp + rows, norm, mask=there)
    bad = norm != norm
    tl.store(largest + rows, tl.where(bad, float("nan"), m), mask=there)
    if place is not None:
        tl.store(argmax + rows, where.to(tl.int64), mask=there)
    if other is not None:
        tl.store(largest_other + rows, tl.where(bad, float("nan"), rest), mask=there)
        tl.store(n_above + rows, count.to(tl.int64), mask=there)
    if weight is not None:
        prompt = (rows // k).to(tl.int64)
        if prompts is not None:
            prompt = tl.load(prompts + prompt, mask=there, other=0).to(tl.int64)
        theirs = tl.load(reference_top + prompt * k + rows % k, mask=there, other=0.0) + tl.log(w)
        tl.store(reference_log_sum_exp + rows, theirs, mask=there)
        # both distributions near each other: the difference of two sums of exponentials would be lost in rounding
        ratio = v / w
        near = tl.abs(ratio) < 0.5
        shift = tl.where(near, _log1p(tl.where(near, ratio, 0.0)), norm - theirs)
        tl.store(divergence + rows, u / w + shift, mask=there)


@triton.jit
def _slope(
    x, W, bias, prompts, reference, log_sum_exp, reference_log_sum_exp, grad, grad_divergence, out,
    n, k, d_vocab, pitch, first, width, cap, w_d, w_v, size,
    D: tl.constexpr, CAP: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of uncapped logits ``first`` to ``first + width``, a tile to a program."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    there = rows < n
    local = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = local < width
    columns = first + local
    logits = _products(x, W, bias, rows, columns, inside, n, cap, w_d, w_v, D, CAP, WIDEN, BLOCK_D)
    steep = tl.load(grad + rows, mask=there, other=0.0)
    norm = tl.load(log_sum_exp + rows, mask=there, other=0.0)
    bent = logits
    if CAP:
        logits *= cap
    both = there[:, None] & inside[None, :]
    if reference is not None:
        pull = tl.load(grad_divergence + rows, mask=there, other=0.0)
        prompt = (rows // k).to(tl.int64)
        if prompts is not None:
            prompt = tl.load(prompts + prompt, mask=there, other=0).to(tl.int64)
        ahead = (prompt * k + rows % k)[:, None] * pitch + columns[None, :]
        theirs = tl.load(reference + ahead, mask=both, other=float("-inf")).to(tl.float32)
        norm_theirs = tl.load(reference_log_sum_exp + rows, mask=there, other=0.0)
        slope = (steep + pull)[:, None] * tl.exp(logits - norm[:, None])
        slope -= pull[:, None] * tl.exp(theirs - norm_theirs[:, None])
    else:
        slope = steep[:, None] * tl.exp(logits - norm[:, None])
    if CAP:
        slope *= 1.0 - bent * bent
    at = out + rows[:, None].to(tl.int64) * width + local[None, :]
    tl.store(at, slope.to(out.dtype.element_ty), mask=both)


_tuned_slope = _tune(_slope)


def launch_scan(
    x: Tensor, W_U: Tensor, b_U: Tensor | None, tokens: Tensor, prompts: Tensor | None, found: Tensor,
    k: int, reference: Tensor | None, cap: float, others: bool, argmax: bool,
) -> list[Tensor | None]:  # fmt: skip
    """Log-sum-exp of rows and reference, divergence, largest, argmax, largest other and number above, [row * k].

    ``x`` [row * k, d_model] and ``found`` [row * k, c] in fp32 are contiguous, ``reference`` [prompt * k, d_vocab]
    as :func:`align_lines` gives it.
    """
    n, d_model = x.shape
    d_vocab, c = W_U.shape[1], tokens.shape[1]
    chunk = chunk_of(n)
    n_chunks = triton.cdiv(d_vocab, chunk)
    numbers = [True, reference is not None, reference is not None, True]
    done = [x.new_empty(n, dtype=torch.float32) if wanted else None for wanted in numbers]
    done.append(x.new_empty(n, dtype=torch.int64) if argmax else None)
    done.append(x.new_empty(n, dtype=torch.float32) if others else None)
    done.append(x.new_empty(n, dtype=torch.int64) if others else None)
    if not n:
        return done
    kinds = [(True, torch.float32)] * 2 + [
        (argmax, torch.int32),
        (others, torch.float32),
        (others, torch.int32),
    ]
    kinds += [(reference is not None, torch.float32)] * 3
    parts = [x.new_empty((n_chunks, n), dtype=dtype) if wanted else None for wanted, dtype in kinds]
    top = None if reference is None else reference.amax(-1).float()
    n_marks = n_chunks * chunk // MARK
    marks = _mark(tokens, n_marks) if others else None

    pitch = 0 if reference is None else reference.stride(0)

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(n, chosen["BLOCK_R"]), n_chunks

    _tuned_scan(x.dtype, reference is not None, others)[grid](
        x, W_U, b_U, tokens, prompts, found, marks, reference, top, *parts,
        n, k, c, d_vocab, pitch, n_marks, chunk, cap, *W_U.stride(), triton.next_power_of_2(n),
        D=d_model, CAP=cap != 0, WIDEN=needs_widening(x.dtype),
    )  # fmt: skip
    _join[(triton.cdiv(n, 128),)](*parts, top, prompts, *done, n, k, n_chunks, BLOCK=128)
    return done


def launch_slope(
    x: Tensor, W_U: Tensor, b_U: Tensor | None, prompts: Tensor | None, k: int, reference: Tensor | None,
    log_sum_exp: Tensor, reference_log_sum_exp: Tensor | None, cap: float,
    grad: Tensor, grad_divergence: Tensor | None, first: int, out: Tensor,
) -> None:  # fmt: skip
    """Gradients of uncapped logits from ``first`` on into ``out`` [row * k, width]."""
    n, width = out.shape

    pitch = 0 if reference is None else reference.stride(0)

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(n, chosen["BLOCK_R"]), triton.cdiv(width, chosen["BLOCK_V"])

    _tuned_slope(x.dtype, reference is not None, False)[grid](
        x, W_U, b_U, prompts, reference, log_sum_exp, reference_log_sum_exp, grad, grad_divergence, out,
        n, k, W_U.shape[1], pitch, first, width, cap, *W_U.stride(), triton.next_power_of_2(n),
        D=x.shape[1], CAP=cap != 0, WIDEN=needs_widening(x.dtype),
    )  # fmt: skip


def align_lines(reference: Tensor | None) -> Tensor | None:
    """Logits of a reference in lines that begin at multiples of 16 numbers, which are read several at a time."""
    if reference is None or reference.shape[1] % 16 == 0:
        return reference
    return F.pad(reference, (0, -reference.shape[1] % 16))[:, : reference.shape[1]]


def chunk_of(n: int) -> int:
    """Tokens of the vocabulary to a program: fewer where few rows would leave multiprocessors idle."""
    return 256 if n <= 1024 else 512 if n <= 4096 else 1024


def _mark(tokens: Tensor, n_marks: int) -> Tensor:
    """Which stretches of the vocabulary hold a given token of a prompt, [prompt, mark]; token 0's where one lacks."""
    marks = torch.zeros((len(tokens), n_marks), dtype=torch.uint8, device=tokens.device)
    return marks.scatter_(1, tokens.clamp(min=0) // MARK, 1)
