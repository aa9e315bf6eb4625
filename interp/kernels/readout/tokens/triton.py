"""Norm and dot products with a few columns of the unembedding, a row of a residual stream to a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import tanh, tuned

NONE, LAYERNORM, RMSNORM, RMSNORM_PLUS_ONE = range(4)

_KEEP: tl.constexpr = tl.constexpr(0)
_LAYERNORM: tl.constexpr = tl.constexpr(LAYERNORM)
_RMSNORM: tl.constexpr = tl.constexpr(RMSNORM)

# a row is a few kilobytes, and what suits it is how many threads share it
_ROWS = [triton.Config({}, num_warps=warps) for warps in (4, 2, 8)]
# more rows a step are more loads in flight; fewer fit the many tokens that one or two rows read
_SUMS = [triton.Config({"BLOCK_R": rows, "BLOCK_D": 128}, num_warps=4) for rows in (16, 4, 64)]


@triton.jit
def _normalise(x, inside, gain, shift, offsets, d_model, eps, KIND: tl.constexpr, dtype: tl.constexpr):
    """The normed row rounded as a model rounds it, the row before gain and bias, and its scale."""
    if KIND == _KEEP:
        return x, x, 1.0
    if KIND == _LAYERNORM:
        x = tl.where(inside, x - tl.sum(x) / d_model, 0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(x * x) / d_model + eps)
    hat = x * scale
    normed = hat
    if KIND == _RMSNORM:
        normed = normed.to(dtype).to(tl.float32)
    if gain is not None:
        g = tl.load(gain + offsets, mask=inside, other=0.0).to(tl.float32)
        if KIND > _RMSNORM:
            g += 1.0
        normed *= g
    if shift is not None:
        normed += tl.load(shift + offsets, mask=inside, other=0.0).to(tl.float32)
    return normed.to(dtype).to(tl.float32), hat, scale


@tuned(_ROWS, key=["d_model"])
@triton.jit
def _read(
    resid, W, tokens, prompts, bias, gain, shift, out,
    k, d_model, c, eps, cap, x_row, x_k, x_d, w_d, w_v,
    KIND: tl.constexpr, CAP: tl.constexpr, GATHERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    row = i // k
    offsets = tl.arange(0, BLOCK)
    inside = offsets < d_model
    place = resid + row * x_row + (i % k) * x_k
    x = tl.load(place + offsets * x_d, mask=inside, other=0.0).to(tl.float32)
    y, _, _ = _normalise(x, inside, gain, shift, offsets, d_model, eps, KIND, resid.dtype.element_ty)
    prompt = row if prompts is None else tl.load(prompts + row).to(tl.int64)
    for j in range(c):
        token = tl.maximum(tl.load(tokens + prompt * c + j).to(tl.int64), 0)
        place = W + (prompt * c + j if GATHERED else token) * w_v
        w = tl.load(place + offsets.to(tl.int64) * w_d, mask=inside, other=0.0).to(tl.float32)
        logit = tl.sum(tl.where(inside, y * w, 0.0))
        if bias is not None:
            logit += tl.load(bias + token).to(tl.float32)
        if CAP:
            logit = tanh(logit / cap) * cap
        tl.store(out + i * c + j, logit.to(out.dtype.element_ty))


@tuned(_ROWS, key=["d_model"])
@triton.jit
def _pull_back(
    grad, resid, W, tokens, prompts, bias, gain, shift, out, slopes, gain_parts, shift_parts,
    n, k, d_model, c, eps, cap, x_row, x_k, x_d, w_d, w_v,
    KIND: tl.constexpr, CAP: tl.constexpr, GATHERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    inside = offsets < d_model
    to_gain = tl.zeros([BLOCK], tl.float32)
    to_shift = tl.zeros([BLOCK], tl.float32)
    for start in range(tl.program_id(0), n, tl.num_programs(0)):
        i = tl.cast(start, tl.int64)
        row = i // k
        place = resid + row * x_row + (i % k) * x_k
        x = tl.load(place + offsets * x_d, mask=inside, other=0.0).to(tl.float32)
        y, hat, scale = _normalise(
            x, inside, gain, shift, offsets, d_model, eps, KIND, resid.dtype.element_ty
        )
        prompt = row if prompts is None else tl.load(prompts + row).to(tl.int64)
        back = tl.zeros([BLOCK], tl.float32)
        for j in range(c):
            token = tl.maximum(tl.load(tokens + prompt * c + j).to(tl.int64), 0)
            place = W + (prompt * c + j if GATHERED else token) * w_v
            w = tl.load(place + offsets.to(tl.int64) * w_d, mask=inside, other=0.0).to(tl.float32)
            slope = tl.load(grad + i * c + j).to(tl.float32)
            if CAP:
                logit = tl.sum(tl.where(inside, y * w, 0.0))
                if bias is not None:
                    logit += tl.load(bias + token).to(tl.float32)
                bent = tanh(logit / cap)
                slope *= 1.0 - bent * bent
            tl.store(slopes + i * c + j, slope)
            back += slope * w
        to_gain += back * hat
        to_shift += back
        if KIND != _KEEP:
            if gain is not None:
                g = tl.load(gain + offsets, mask=inside, other=0.0).to(tl.float32)
                if KIND > _RMSNORM:
                    g += 1.0
                back *= g
            along = tl.sum(tl.where(inside, back * hat, 0.0)) / d_model
            if KIND == _LAYERNORM:
                back -= tl.sum(tl.where(inside, back, 0.0)) / d_model
            back = scale * (back - hat * along)
        tl.store(out + i * d_model + offsets, back.to(out.dtype.element_ty), mask=inside)
    own = tl.program_id(0).to(tl.int64) * d_model + offsets
    if gain_parts is not None:
        tl.store(gain_parts + own, to_gain, mask=inside)
    if shift_parts is not None:
        tl.store(shift_parts + own, to_shift, mask=inside)


@tuned(_SUMS, key=["d_model"])
@triton.jit
def _sum_by_token(
    slopes, normed, order, ordered, ends, to_W, to_bias, c, d_model,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Entries come sorted by token; the program of a token's first entry adds up all of them, in their order."""
    first = tl.program_id(0).to(tl.int64)
    token = tl.load(ordered + first)
    before = tl.load(ordered + first - 1, mask=first > 0, other=-1)
    if token != before:
        offsets = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        inside = offsets < d_model
        end = tl.load(ends + first)
        total = tl.zeros([BLOCK_D], tl.float32)
        alone = tl.zeros([BLOCK_R], tl.float32)
        for at in range(first, end, BLOCK_R):
            places = at + tl.arange(0, BLOCK_R)
            there = places < end
            entry = tl.load(order + places, mask=there, other=0)
            slope = tl.load(slopes + entry, mask=there, other=0.0)
            place = normed + (entry // c)[:, None] * d_model + offsets[None, :]
            both = there[:, None] & inside[None, :]
            y = tl.load(place, mask=both, other=0.0).to(tl.float32)
            total += tl.sum(slope[:, None] * y, axis=0)
            alone += slope
        tl.store(to_W + token * d_model + offsets, total.to(to_W.dtype.element_ty), mask=inside)
        if to_bias is not None:
            here = tl.program_id(1) == 0
            tl.store(to_bias + token, tl.sum(alone).to(to_bias.dtype.element_ty), mask=here)


def _directions(W_U: Tensor, tokens: Tensor, prompts: Tensor | None) -> tuple[Tensor, bool]:
    """The unembedding, or the prompts' columns of it where a column is scattered: a sector of memory a number."""
    if W_U.stride(0) == 1 or prompts is None:
        return W_U, False
    return W_U.index_select(1, tokens.reshape(-1).clamp(min=0)).T.contiguous().T, True


def launch_read(
    resid: Tensor, W_U: Tensor, tokens: Tensor, prompts: Tensor | None, b_U: Tensor | None,
    kind: int, eps: float, gain: Tensor | None, shift: Tensor | None, cap: float, out: Tensor,
) -> None:  # fmt: skip
    """Write logits [row, k, c]; ``cap`` 0 is none. All but ``resid`` and ``W_U`` are contiguous."""
    n_rows, k, d_model = resid.shape
    c = tokens.shape[1]
    if not (n_rows * k * c):
        return
    W, gathered = _directions(W_U, tokens, prompts)
    _read[(n_rows * k,)](
        resid, W, tokens, prompts, b_U, gain, shift, out,
        k, d_model, c, eps, cap, *resid.stride(), *W.stride(),
        KIND=kind, CAP=cap != 0, GATHERED=gathered, BLOCK=triton.next_power_of_2(d_model),
    )  # fmt: skip


def launch_pull_back(
    grad: Tensor, resid: Tensor, W_U: Tensor, tokens: Tensor, prompts: Tensor | None, b_U: Tensor | None,
    kind: int, eps: float, gain: Tensor | None, shift: Tensor | None, cap: float,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of the residual streams, of uncapped logits [row * k, c], of gain and of bias."""
    n_rows, k, d_model = resid.shape
    n, c = n_rows * k, tokens.shape[1]
    # enough for every multiprocessor to hold a few; their sums of gradients are added up afterwards
    n_programs = min(n, 1024)
    to_resid = torch.empty(resid.shape, dtype=resid.dtype, device=resid.device)
    slopes = torch.empty((n, c), dtype=torch.float32, device=resid.device)
    parts = [None if p is None else slopes.new_empty((n_programs, d_model)) for p in (gain, shift)]
    if n:
        W, gathered = _directions(W_U, tokens, prompts)
        _pull_back[(n_programs,)](
            grad, resid, W, tokens, prompts, b_U, gain, shift, to_resid, slopes, *parts,
            n, k, d_model, c, eps, cap, *resid.stride(), *W.stride(),
            KIND=kind, CAP=cap != 0, GATHERED=gathered, BLOCK=triton.next_power_of_2(d_model),
        )  # fmt: skip
    to_gain, to_shift = (
        None if part is None or parameter is None else part.sum(0).to(parameter.dtype)
        for part, parameter in zip(parts, (gain, shift), strict=True)
    )
    return to_resid, slopes, to_gain, to_shift


def launch_sum_by_token(
    slopes: Tensor, normed: Tensor, tokens: Tensor, to_W: Tensor, to_bias: Tensor | None
) -> None:
    """Add up slope times normed stream over the entries of each token, into rows of ``to_W`` [d_vocab, d_model].

    ``slopes`` and ``tokens`` [entry, c], contiguous ``normed`` [entry, d_model]; rows of other tokens stay as they are.
    """
    d_model = normed.shape[1]
    if not slopes.numel():
        return
    ordered, order = tokens.reshape(-1).clamp(min=0).sort(stable=True)
    ends = torch.searchsorted(ordered, ordered, right=True)

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return ordered.numel(), triton.cdiv(d_model, chosen["BLOCK_D"])

    _sum_by_token[grid](slopes, normed, order, ordered, ends, to_W, to_bias, slopes.shape[1], d_model)
