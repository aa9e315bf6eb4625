"""Relevance rules: gates, activation functions and norms, looked at on the way forth and pulled back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.bench.kernel_case import Inputs, KernelCase
from interp.kernels.norm import Norm, normalise
from interp.kernels.relevance import Propagated, propagate_activation, propagate_gate, propagate_norm
from interp.kernels.relevance.reference import (
    activation_surrogate,
    gate_surrogate,
    give_gradient,
    measure_gap,
    norm_surrogate,
)

OP = "relevance"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
Run = Callable[[Inputs, Sequence[Tensor]], Propagated]


def list_cases(quick: bool = False) -> list[KernelCase]:
    """GPT-2 small, and a gated model with 4,096 entries a row and 14,336 neurons."""
    if quick:
        return [
            _case("gate", 12, 40, torch.float32),
            _case("activation", 12, 40, torch.bfloat16),
            *(_case(norm, 12, 36, torch.float32) for norm in ("layernorm", "rmsnorm")),
        ]
    bf16, fp32 = torch.bfloat16, torch.float32
    return [
        *(_case("activation", 65536, 3072, dtype) for dtype in (bf16, fp32)),
        *(_case("layernorm", 131072, 768, dtype) for dtype in (bf16, fp32)),
        *(_case("gate", 16384, 14336, dtype) for dtype in (bf16, fp32)),
        _case("rmsnorm", 32768, 4096, bf16),
    ]


def _case(name: str, n_rows: int, d: int, dtype: torch.dtype) -> KernelCase:
    kernel, eager = _RUNS[name]
    n = n_rows * d
    # value and inputs read; gradient read, inputs too (of a norm a scale a row), their gradients written
    moved = {"gate": 8, "activation": 5}.get(name, 4)
    return KernelCase(
        OP,
        f"{name}, forward and backward",
        {"row": n_rows, "d_model" if name.endswith("norm") else "d_mlp": d},
        dtype,
        partial(_draw, name, n_rows, d, dtype),
        partial(_there_and_back, kernel),
        partial(_there_and_back, eager),
        n_bytes=moved * n * dtype.itemsize + (8 * n_rows if name.endswith("norm") else 0),
        n_flops=20 * n,
        tolerance=TOLERANCES[dtype],
        compiles=False,
    )


def _draw(
    name: str, n_rows: int, d: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Inputs:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, sign = draw(n_rows, d), draw(n_rows, d)
    if name == "gate":
        up = draw(n_rows, d)
        return {"x": x, "up": up, "value": F.silu(x) * up, "sign": sign}
    if name == "activation":
        return {"x": x, "value": F.gelu(x, approximate="tanh"), "sign": sign}
    gain, bias = draw(d), draw(d) if name == "layernorm" else None
    found = {"x": x, "sign": sign, "gain": gain, "bias": bias, "norm": name}
    return found | {"value": normalise(x, _norm_of(found))}


def _norm_of(given: Inputs) -> Norm:
    return Norm(given["norm"], 1e-5, given["gain"], given["bias"])


def _there_and_back(run: Run, given: Inputs) -> tuple[Tensor, ...]:
    leaves = [given[name].detach().requires_grad_() for name in ("x", "up") if name in given]
    with torch.enable_grad():
        found = run(given, leaves)
        gradients = torch.autograd.grad(found.value, leaves, given["sign"])
    assert found.gap is not None
    return found.gap[:1], *gradients


def _by_chain(given: Inputs, surrogate: Tensor) -> Propagated:
    surrogate = surrogate.to(given["value"].dtype)
    gap = measure_gap(given["value"], surrogate.detach())
    return Propagated(give_gradient(given["value"], surrogate), gap)


_RUNS: dict[str, tuple[Run, Run]] = {
    "gate": (
        lambda given, x: propagate_gate(given["value"], x[0], x[1], "silu", check=True),
        lambda given, x: _by_chain(given, gate_surrogate(x[0], x[1], "silu", 0.5)),
    ),
    "activation": (
        lambda given, x: propagate_activation(given["value"], x[0], "gelu_new", check=True),
        lambda given, x: _by_chain(given, activation_surrogate(x[0], "gelu_new")),
    ),
} | {
    name: (
        lambda given, x: propagate_norm(given["value"], x[0], _norm_of(given), check=True),
        lambda given, x: _by_chain(given, norm_surrogate(x[0], _norm_of(given))),
    )
    for name in ("layernorm", "rmsnorm")
}
