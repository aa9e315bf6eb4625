"""Launches of every kernel of injection at real sizes, for a compiler without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp.kernels.inject import DirectionPatch, Patch, PositionPatch, add_updates, start_rows
from interp.kernels.norm import Norm

PROMPTS, COLUMNS, ROWS, HEADS, D_HEAD = 2, 8, 4, 12, 64


def launches() -> dict[str, Callable[[], object]]:
    """Calls by name: each dtype forward and backward, every kind of patch and of norm."""
    found: dict[str, Callable[[], object]] = {}
    kinds = ("position", "difference", "head", "neuron")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for d_model, norm in ((768, "layernorm"), (4096, "rmsnorm")):
            for kind in kinds if dtype != torch.float16 else ("head",):
                name = f"{kind} {norm} {d_model} {str(dtype).removeprefix('torch.')}"
                found[name] = _start(kind, norm, d_model, dtype)
        found[f"updates {dtype}"] = _updates(2048, dtype)
    found["head plus one 16384"] = _start("head", "plus one", 16384, torch.bfloat16)
    found["difference 16384"] = _start("difference", "layernorm", 16384, torch.float32)
    return found


def _start(kind: str, norm: str, d_model: int, dtype: torch.dtype) -> Callable[[], object]:
    def run() -> None:
        base, new, old = (_leaf(PROMPTS, COLUMNS, d_model, dtype=dtype) for _ in range(3))
        where = torch.ones(ROWS, 4, dtype=torch.bool)
        parts, rank = (HEADS, D_HEAD) if kind == "head" else (64, 1)
        patches: dict[str, Callable[[], Patch]] = {
            "position": lambda: PositionPatch(new, None, where),
            "difference": lambda: PositionPatch(new, old, where),
        }
        tables = [_leaf(PROMPTS, COLUMNS, parts, rank, dtype=dtype) for _ in range(2)]
        directions = _leaf(parts, rank, d_model, dtype=dtype)
        part = torch.arange(ROWS)
        patch = patches.get(kind, lambda: DirectionPatch(tables[0], directions, part, tables[1], where))()
        columns = torch.zeros(ROWS, 4, dtype=torch.long) if norm == "rmsnorm" else slice(2, 6)
        _backward(start_rows(base, torch.zeros(ROWS, dtype=torch.long), columns, patch, _norm(norm, d_model, dtype)))

    return run


def _updates(d_model: int, dtype: torch.dtype) -> Callable[[], object]:
    def run() -> None:
        parts = [_leaf(8, d_model, dtype=dtype) for _ in range(3)]
        _backward(add_updates(parts[0], parts[1:2], _norm("rmsnorm", d_model, dtype)))
        _backward(add_updates(parts[0], parts[1:], _norm("layernorm", d_model, dtype)))

    return run


def _norm(name: str, d_model: int, dtype: torch.dtype) -> Norm:
    gain, bias = (_leaf(d_model, dtype=dtype) for _ in range(2))
    if name == "layernorm":
        return Norm("layernorm", 1e-5, gain, bias)
    return Norm("rmsnorm", 1e-6, gain, plus_one=name == "plus one")


def _leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(*shape, dtype=dtype).requires_grad_()


def _backward(made: tuple[Tensor, Tensor | None]) -> None:
    torch.autograd.backward([part for part in made if part is not None], [torch.ones_like(made[0])] * 2)
