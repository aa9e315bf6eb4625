"""Backwards of relevance rules, and how far an operation is from what its rule takes it to be."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.pieces import tanh, tuned

FORMS = {
    "gelu": "erf",
    "gelu_new": "cubic",
    "gelu_fast": "cubic",
    "gelu_pytorch_tanh": "cubic",
    "quick_gelu": "quick",
    "silu": "sigmoid",
    "swish": "sigmoid",
    "relu": "step",
    "tanh": "tanh",
    "identity": "one",
}
"""Which form of ``act(x) / x`` each activation function has."""

_UNITS = [
    triton.Config({"BLOCK": 1024}, num_warps=4),  # 16 bytes a thread of each tensor in half precision
    triton.Config({"BLOCK": 2048}, num_warps=4),  # the same in fp32, or two loads in flight
    triton.Config({"BLOCK": 4096}, num_warps=8),  # fewer programs
]
_NORMS = [
    triton.Config({"TILE": 2048}, num_warps=4),
    triton.Config({"TILE": 4096}, num_warps=8),  # fewer programs, where rows are short
    triton.Config({"TILE": 4096}, num_warps=4),  # more of a long row in each thread
]


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def _secant(x, FORM: tl.constexpr):
    """``act(x) / x``, exact to rounding relative to its size also where it is tiny."""
    if FORM == "erf":
        # half of erfc in the Chebyshev form of Numerical Recipes (6.2.2), within 1.2e-7 of its size
        z = tl.abs(x) * 0.7071067811865476
        t = 1.0 / (1.0 + 0.5 * z)
        inner = -0.82215223 + t * 0.17087277
        inner = 0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * inner))
        inner = 1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * inner)))
        tail = 0.5 * t * tl.exp(-z * z - 1.26551223 + t * inner)
        found = tl.where(x > 0.0, 1.0 - tail, tail)
    elif FORM == "cubic":
        found = _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif FORM == "quick":
        found = _sigmoid(1.702 * x)
    elif FORM == "sigmoid":
        found = _sigmoid(x)
    elif FORM == "step":
        found = tl.where(x > 0.0, 1.0, tl.where(x < 0.0, 0.0, tl.where(x == 0.0, 0.5, x)))
    elif FORM == "tanh":
        is_small = tl.abs(x) < 1e-3
        found = tl.where(is_small, 1.0 - x * x / 3.0, tanh(x) / tl.where(is_small, 1.0, x))
    else:
        found = tl.where(x == x, 1.0, 1.0)
    return found


@triton.jit
def _gap(value, expected, inside):
    """Sizes of ``value`` and of its differences from ``expected``; as ``measure_gap`` of the reference."""
    alike = (value == expected) | ((value != value) & (expected != expected))
    difference = tl.abs(value - expected)
    difference = tl.where(difference == difference, difference, float("inf"))
    difference = tl.where(alike | (inside == 0), 0.0, difference)
    size = tl.abs(value)
    size = tl.where((size < float("inf")) & inside, size, 0.0)
    return size, difference


@tuned(_UNITS, key=["FORM"])
@triton.jit
def _pull_units(
    to_x, to_up, grad, x, up, cap, share, n, FORM: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    coefficient = _secant(own / cap if CAPPED else own, FORM)
    through = g * coefficient
    if up is not None:
        other = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        through *= share
        tl.store(to_up + at, (through * own).to(to_up.dtype.element_ty), mask=inside)
        through *= other
    tl.store(to_x + at, through.to(to_x.dtype.element_ty), mask=inside)


@tuned(_UNITS, key=["FORM"])
@triton.jit
def _gap_units(
    gaps, value, x, up, bias, cap, share, n, d, FORM: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    expected = own * _secant(own / cap if CAPPED else own, FORM)
    if up is not None:
        other = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        expected = share * (expected * other + expected * other)
    if bias is not None:
        expected += tl.load(bias + at % d, mask=inside, other=0.0).to(tl.float32)
    expected = expected.to(value.dtype.element_ty).to(tl.float32)
    found = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
    size, difference = _gap(found, expected, inside)
    place = gaps + tl.program_id(0).to(tl.int64) * 2
    tl.store(place, tl.max(size, 0))
    tl.store(place + 1, tl.max(difference, 0))


@tuned(_NORMS, key=["d"])
@triton.jit
def _scale_rows(
    scales,
    gaps,
    value,
    x,
    gain,
    bias,
    eps,
    n_rows,
    d,
    CENTRED: tl.constexpr,
    PLUS_ONE: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    BLOCK_R: tl.constexpr = TILE // BLOCK_D if TILE > BLOCK_D else 1
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_D)
    inside = (row < n_rows)[:, None] & (k < d)[None, :]
    at = row[:, None] * d + k[None, :]
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        own = tl.where(inside, own - (tl.sum(own, 1) / d)[:, None], 0.0)
    scale = tl.sqrt(tl.sum(own * own, 1) / d + eps)
    tl.store(scales + row, scale, mask=row < n_rows)
    if CHECK:
        expected = own / scale[:, None]
        if gain is not None:
            factor = tl.load(gain + k, mask=k < d, other=0.0).to(tl.float32)
            if PLUS_ONE:
                factor += 1.0
            expected *= factor[None, :]
        if bias is not None:
            expected += tl.load(bias + k, mask=k < d, other=0.0).to(tl.float32)[None, :]
        expected = expected.to(value.dtype.element_ty).to(tl.float32)
        found = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
        size, difference = _gap(found, expected, inside)
        place = gaps + tl.program_id(0).to(tl.int64) * 2
        tl.store(place, tl.max(tl.max(size, 1), 0))
        tl.store(place + 1, tl.max(tl.max(difference, 1), 0))


@tuned(_NORMS, key=["d"])
@triton.jit
def _pull_rows(
    to_x,
    grad,
    scales,
    gain,
    n_rows,
    d,
    CENTRED: tl.constexpr,
    PLUS_ONE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
):
    BLOCK_R: tl.constexpr = TILE // BLOCK_D if TILE > BLOCK_D else 1
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_D)
    inside = (row < n_rows)[:, None] & (k < d)[None, :]
    at = row[:, None] * d + k[None, :]
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    if gain is not None:
        factor = tl.load(gain + k, mask=k < d, other=0.0).to(tl.float32)
        if PLUS_ONE:
            factor += 1.0
        g *= factor[None, :]
    if CENTRED:
        g -= (tl.sum(g, 1) / d)[:, None]
    scale = tl.load(scales + row, mask=row < n_rows, other=1.0)
    tl.store(to_x + at, (g / scale[:, None]).to(to_x.dtype.element_ty), mask=inside)


def launch_pull_units(
    grad: Tensor, x: Tensor, up: Tensor | None, act_fn: str, cap: float | None, share: float
) -> tuple[Tensor, Tensor | None]:
    """Gradients at ``x``, and at ``up`` where the operation is a gate."""
    grad, x = grad.contiguous(), x.contiguous()
    up = None if up is None else up.contiguous()
    to_x, to_up = torch.empty_like(x), None if up is None else torch.empty_like(up)
    if x.numel():
        _pull_units[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](
            to_x,
            to_up,
            grad,
            x,
            up,
            1.0 if cap is None else cap,
            share,
            x.numel(),
            FORM=FORMS[act_fn],
            CAPPED=cap is not None,
        )
    return to_x, to_up


def launch_gap_units(
    value: Tensor,
    x: Tensor,
    up: Tensor | None,
    bias: Tensor | None,
    act_fn: str,
    cap: float | None,
    share: float,
) -> Tensor:
    """Largest size and difference, [2] in fp32."""
    least = min(config.kwargs["BLOCK"] for config in _UNITS)
    gaps = torch.zeros(triton.cdiv(max(1, x.numel()), least), 2, dtype=torch.float32, device=x.device)
    if x.numel():
        _gap_units[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](
            gaps,
            value.contiguous(),
            x.contiguous(),
            None if up is None else up.contiguous(),
            None if bias is None else bias.contiguous(),
            1.0 if cap is None else cap,
            share,
            x.numel(),
            x.shape[-1],
            FORM=FORMS[act_fn],
            CAPPED=cap is not None,
        )
    return gaps.amax(0)


def launch_scale_rows(
    value: Tensor,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    plus_one: bool,
    check: bool,
) -> tuple[Tensor, Tensor]:
    """Scale of every row, [rows] in fp32, and largest size and difference, [2]; 0 unless ``check``."""
    d = x.shape[-1]
    n_rows = x.numel() // max(1, d)
    scales = torch.empty(n_rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(max(1, d))
    least = max(1, min(config.kwargs["TILE"] for config in _NORMS) // block)
    gaps = torch.zeros(
        triton.cdiv(n_rows, least) if check and n_rows else 1, 2, dtype=torch.float32, device=x.device
    )
    if n_rows:
        _scale_rows[lambda meta: (triton.cdiv(n_rows, max(1, meta["TILE"] // block)),)](
            scales,
            gaps,
            value.contiguous() if check else None,
            x.contiguous(),
            None if gain is None else gain.contiguous(),
            None if bias is None else bias.contiguous(),
            eps,
            n_rows,
            d,
            CENTRED=centred,
            PLUS_ONE=plus_one,
            CHECK=check,
            BLOCK_D=block,
        )
    return scales, gaps.amax(0)


def launch_pull_rows(
    grad: Tensor, scales: Tensor, gain: Tensor | None, centred: bool, plus_one: bool, dtype: torch.dtype
) -> Tensor:
    """The gradient at a norm's input, in its ``dtype``."""
    grad, d = grad.contiguous(), grad.shape[-1]
    to_x = torch.empty_like(grad, dtype=dtype)
    block = triton.next_power_of_2(max(1, d))
    if grad.numel():
        _pull_rows[lambda meta: (triton.cdiv(len(scales), max(1, meta["TILE"] // block)),)](
            to_x,
            grad,
            scales,
            None if gain is None else gain.contiguous(),
            len(scales),
            d,
            CENTRED=centred,
            PLUS_ONE=plus_one,
            BLOCK_D=block,
        )
    return to_x
