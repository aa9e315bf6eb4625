"""Scores of all edges of a graph from changes of its writers and gradients at its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.bench.kernel_case import Inputs, KernelCase
from interp.kernels.edge_scores import score_pairs, sum_pairs

_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class _Model:
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int

    @property
    def n_writers(self) -> int:
        """The input, heads and MLPs."""
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def reach(self) -> list[int]:
        """Writers before each query, key, value, MLP and the logits."""
        found, before = list[int](), 1
        for _ in range(self.n_layers):
            found += [before] * (self.n_heads + 2 * self.n_kv_heads) + [before + self.n_heads]
            before += self.n_heads + 1
        return [*found, before]


_GPT2 = _Model(12, 12, 12, 768)
_LLAMA = _Model(16, 32, 8, 2048)
_TINY = _Model(2, 3, 1, 40)


@dataclass(frozen=True)
class _Size:
    model: _Model
    prompts: int
    n_pos: int
    dtype: torch.dtype

    @property
    def shape(self) -> dict[str, int]:
        """Axes by name."""
        return {
            "writers": self.model.n_writers,
            "readers": len(self.model.reach),
            "prompts": self.prompts,
            "pos": self.n_pos,
            "d_model": self.model.d_model,
        }

    def make(self, device: torch.device, draw: torch.Generator) -> dict[str, Any]:
        """Changes, gradients and a base run's outputs."""
        sizes = (self.prompts, self.n_pos, self.model.d_model)

        def rand(n: int) -> Tensor:
            return torch.randn(n, *sizes, generator=draw).to(device, self.dtype)

        n = self.model.n_writers
        return {
            "changed": rand(n),
            "gradient": rand(len(self.model.reach)),
            "base": rand(n),
            "reach": torch.tensor(self.model.reach, device=device),
            "places": torch.arange(self.n_pos, device=device).expand(self.prompts, -1).contiguous(),
        }

    def cost(self, n_scores: int, n_operands: int) -> tuple[int, int]:
        """Bytes and operations; only edges are multiplied."""
        numbers = self.prompts * self.n_pos * self.model.d_model
        return numbers * n_operands * self.dtype.itemsize + 4 * n_scores, 2 * sum(self.model.reach) * numbers

    @property
    def n_pairs(self) -> int:
        """Scores of one prompt."""
        return self.model.n_writers * len(self.model.reach)


def list_cases(quick: bool = False) -> list[KernelCase]:
    """Blocks of prompts as :func:`interp.score_edges` takes them, and one sum of 786,432 products a pair."""
    half, full = torch.bfloat16, torch.float32
    if quick:
        size = _Size(_TINY, 2, 3, full)
        return [_by_prompt(size), _by_place(size), _summed(size), _backward(size)]
    found = [_by_prompt(_Size(_GPT2, 64, 10, dtype)) for dtype in (full, half)]
    found += [_by_place(_Size(_GPT2, 16, 16, dtype)) for dtype in (full, half)]
    # more columns than a score needs: the longest sum, with the difference of two runs taken on the way
    found += [_summed(_Size(_GPT2, 16, 64, dtype)) for dtype in (full, half)]
    found += [_by_prompt(_Size(_LLAMA, 8, 12, dtype)) for dtype in (full, half)]
    return [*found, _backward(_Size(_GPT2, 16, 10, full))]


def _case(
    name: str,
    size: _Size,
    kernel: Callable[[Inputs], Any],
    eager: Callable[[Inputs], Any],
    cost: tuple[int, int],
    compiles: bool = True,
) -> KernelCase:
    tolerance = _TOLERANCE[size.dtype]
    return KernelCase(
        "edge_scores", name, size.shape, size.dtype, size.make, kernel, eager, *cost, tolerance, {}, compiles
    )


def _mask(found: Tensor, reach: Tensor) -> Tensor:
    return torch.where(torch.arange(found.shape[-1], device=found.device) < reach[:, None], found, 0.0)


def _by_prompt(size: _Size) -> KernelCase:
    def kernel(x: Inputs) -> Tensor:
        return score_pairs(x["changed"], x["gradient"], reach=x["reach"])[..., 0]

    def eager(x: Inputs) -> Tensor:
        gradient, changed = (x[name].transpose(0, 1).flatten(2) for name in ("gradient", "changed"))
        return _mask(torch.bmm(gradient, changed.transpose(1, 2)), x["reach"])

    n_operands = size.model.n_writers + len(size.model.reach)
    return _case("by prompt", size, kernel, eager, size.cost(size.prompts * size.n_pairs, n_operands))


def _by_place(size: _Size) -> KernelCase:
    """Every column is a place of its own."""

    def kernel(x: Inputs) -> Tensor:
        places = {"places": x["places"], "n_places": size.n_pos}
        return score_pairs(x["changed"], x["gradient"], reach=x["reach"], **places)

    def eager(x: Inputs) -> Tensor:
        each = x["gradient"].permute(1, 2, 0, 3) @ x["changed"].permute(1, 2, 3, 0)
        return _mask(each, x["reach"]).permute(0, 2, 3, 1)

    n_operands = size.model.n_writers + len(size.model.reach)
    cost = size.cost(size.prompts * size.n_pos * size.n_pairs, n_operands)
    return _case("by place", size, kernel, eager, cost)


def _summed(size: _Size) -> KernelCase:
    def kernel(x: Inputs) -> Tensor:
        return sum_pairs(x["changed"], x["gradient"], base=x["base"], reach=x["reach"])

    def eager(x: Inputs) -> Tensor:
        change = (x["changed"] - x["base"]).flatten(1)
        return _mask(x["gradient"].flatten(1) @ change.T, x["reach"])

    n_operands = 2 * size.model.n_writers + len(size.model.reach)
    return _case("summed difference", size, kernel, eager, size.cost(size.n_pairs, n_operands))


def _backward(size: _Size) -> KernelCase:
    """Gradients of both operands, which are matrix products of PyTorch."""

    def gradients(x: Inputs, score: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaves = [x[name].detach().requires_grad_() for name in ("changed", "gradient")]
        with torch.enable_grad():
            return torch.autograd.grad(score(*leaves).square().sum(), leaves)

    def kernel(x: Inputs) -> tuple[Tensor, ...]:
        return gradients(x, lambda a, b: score_pairs(a, b, reach=x["reach"]))

    def eager(x: Inputs) -> tuple[Tensor, ...]:
        return gradients(x, lambda a, b: _mask(torch.einsum("rbpd,wbpd->brw", b, a), x["reach"]))

    n_bytes, n_flops = size.cost(0, 2 * (size.model.n_writers + len(size.model.reach)))
    return _case("backward", size, kernel, eager, (n_bytes, 3 * n_flops), compiles=False)
