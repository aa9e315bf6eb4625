"""A kernel held to its reference in fp64: values and every gradient, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp.kernels import use_kernels

TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest length of an error over the length of the truth, by the inputs' dtype: a few roundings of it."""


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Length of the difference over the length of the truth; infinite where one of them is NaN or unlike in shape."""
    if found.shape != truth.shape:
        return float("inf")
    if not truth.numel():
        return 0.0
    difference = found.detach().cpu().double() - truth.detach().cpu().double()
    error = float(difference.norm() / truth.detach().cpu().double().norm().clamp(min=1e-30))
    # of NaN nothing is less
    return error if error >= 0 else float("inf")


def kernel_errors(
    operation: Callable[..., Any], inputs: Mapping[str, Any], gradients: bool = True, seed: int = 0
) -> dict[str, float]:
    """Relative errors of a dispatched operation run as its kernel, against itself as the reference in fp64.

    ``operation`` is called with ``inputs`` by name and returns a tensor or several. Floating-point tensors are
    leaves of autograd where they require a gradient; integers and numbers are handed on. Keys are ``out0``,
    ``out1`` ... and ``d name``. The reference sees the same numbers, already rounded to the inputs' dtype.
    """
    given = {name: _leaf(value) for name, value in inputs.items()}
    wide = {name: _leaf(value, torch.float64) for name, value in inputs.items()}
    with use_kernels("triton"):
        found = _as_tuple(operation(**given))
    with use_kernels("reference"):
        truth = _as_tuple(operation(**wide))
    errors = {f"out{i}": relative_error(a, b) for i, (a, b) in enumerate(zip(found, truth, strict=True))}
    leaves = [name for name, value in given.items() if isinstance(value, Tensor) and value.requires_grad]
    if not gradients or not leaves:
        return errors
    generator = torch.Generator().manual_seed(seed)
    seen = [i for i, value in enumerate(truth) if value.requires_grad]
    assert [i for i, value in enumerate(found) if value.requires_grad] == seen
    signs = [torch.randn(truth[i].shape, generator=generator).to(found[i].dtype) for i in seen]
    with use_kernels("triton"):
        ours = torch.autograd.grad(
            [found[i] for i in seen],
            [given[name] for name in leaves],
            [sign.to(found[i].device) for i, sign in zip(seen, signs, strict=True)],
            allow_unused=True,
        )
    with use_kernels("reference"):
        right = torch.autograd.grad(
            [truth[i] for i in seen],
            [wide[name] for name in leaves],
            [sign.to(truth[i]) for i, sign in zip(seen, signs, strict=True)],
            allow_unused=True,
        )
    for name, a, b in zip(leaves, ours, right, strict=True):
        assert (a is None) == (b is None), f"only one of kernel and reference has a gradient of {name}"
        if a is not None and b is not None:
            errors[f"d {name}"] = relative_error(a, b)
    return errors


def _leaf(value: Any, dtype: torch.dtype | None = None) -> Any:
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return value
    if dtype is None:
        # strides are part of what is tested: no copy
        return value.detach().requires_grad_(value.requires_grad)
    return value.detach().to(dtype).requires_grad_(value.requires_grad)


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)
