"""Attribution: change times gradient of whole activations, of heads, of neurons, and along a path."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from interp.bench.kernel_case import Inputs, KernelCase
from interp.kernels.attribute import attribute_rows, attribute_units

OP = "attribute"
TOLERANCE = 2e-6
"""Sums are in fp32 whatever is read."""


def list_cases(quick: bool = False) -> list[KernelCase]:
    """GPT-2 small and a model with 4,096 entries a row and 14,336 neurons; heads, streams and neurons."""
    if quick:
        return [
            _rows_case("streams", (2, 12, 36), torch.bfloat16),
            _rows_case("heads along a path", (2, 5, 3, 10), torch.float32, n_points=3),
            _units_case(2, 12, 40, torch.float32),
        ]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        found += [
            _rows_case("streams", (512, 128, 768), dtype),
            _rows_case("heads", (512, 128, 12, 64), dtype),
            _units_case(128, 128, 3072, dtype),
        ]
    return [
        *found,
        _rows_case("heads along a path", (64, 128, 12, 64), torch.bfloat16, n_points=10),
        _rows_case("streams", (64, 512, 4096), torch.bfloat16),
        _units_case(16, 512, 14336, torch.bfloat16),
    ]


def _rows_case(name: str, sizes: tuple[int, ...], dtype: torch.dtype, n_points: int = 0) -> KernelCase:
    axes = ("batch", "pos", "head", "d_head") if len(sizes) == 4 else ("batch", "pos", "d_model")
    shape, n = dict(zip(axes, sizes, strict=True)), torch.Size(sizes).numel()
    return KernelCase(
        OP,
        name,
        shape | ({"point": n_points} if n_points else {}),
        dtype,
        partial(_draw, sizes, n_points, dtype),
        _rows,
        _eager_rows,
        n_bytes=(2 + max(1, n_points)) * n * dtype.itemsize + 4 * n // sizes[-1],
        n_flops=(3 + 2 * n_points) * n,
        tolerance=TOLERANCE,
    )


def _units_case(n_batch: int, n_pos: int, d_mlp: int, dtype: torch.dtype) -> KernelCase:
    n = n_batch * n_pos * d_mlp
    return KernelCase(
        OP,
        "neurons over all columns",
        {"batch": n_batch, "pos": n_pos, "d_mlp": d_mlp},
        dtype,
        partial(_draw, (n_batch, n_pos, d_mlp), 0, dtype),
        lambda given: attribute_units(given["source"], given["base"], given["gradient"]),
        lambda given: (_subtract(given) * given["gradient"]).sum(1).unsqueeze(0),
        n_bytes=3 * n * dtype.itemsize + 4 * n_batch * d_mlp,
        n_flops=3 * n,
        tolerance=TOLERANCE,
    )


def _draw(
    sizes: tuple[int, ...],
    n_points: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    found = {"source": draw(*sizes), "base": draw(*sizes)}
    if not n_points:
        return found | {"gradient": draw(*sizes), "weights": None}
    weights = torch.rand(n_points, generator=generator).to(device)
    return found | {"gradient": draw(n_points, *sizes), "weights": weights}


def _rows(given: Inputs) -> Tensor:
    return attribute_rows(given["source"], given["base"], given["gradient"], weights=given["weights"])


def _eager_rows(given: Inputs) -> Tensor:
    change, gradient, weights = _subtract(given), given["gradient"], given["weights"]
    if weights is None:
        return (change * gradient).sum(-1)
    return (change * torch.einsum("n,n...->...", weights, gradient.to(weights.dtype))).sum(-1)


def _subtract(given: Inputs) -> Tensor:
    source: Tensor = given["source"]
    return source.to(torch.promote_types(source.dtype, torch.float32)) - given["base"]
