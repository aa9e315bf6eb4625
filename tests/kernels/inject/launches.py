"""Launches of every kernel of injection at real sizes, for a compiler without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp.kernels.inject import DirectionPatch, Patch, PositionPatch, add_updates, start_rows
from interp.kernels.norm import Norm

PROMPTS, COLUMNS, ROWS, HEADS, D_HEAD = 2, 8, 4, 12, 64


def launches() -> dict[str, Callable[[], object]]:
    """Calls by name: each dtype forward and backward, every kind of patch and of norm, narrow and wide rows."""
    found: dict[str, Callable[[], object]] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        found[f"head of {dtype}"] = _start("head", "layernorm", 768, dtype)
        found[f"updates of {dtype}"] = _updates(2048, dtype)
    found["position"] = _start("position", "rmsnorm", 4096, torch.bfloat16)
    found["neuron"] = _start("neuron", "plus one", 768, torch.float32)
    found["difference"] = _start("difference", "layernorm", 8192, torch.float32)
    found["any size"] = _waves
    return found


def _waves() -> None:
    base, norm = torch.zeros(2, 40, 64), Norm("rmsnorm", 1e-6)
    tables, directions = torch.zeros(2, 40, 3, 16), torch.zeros(3, 16, 64)
    for n_rows, start, n_columns in ((3, 0, 5), (1, 1, 1), (16, 16, 16)):
        row = torch.zeros(n_rows, dtype=torch.long)
        for patch in (PositionPatch(base), DirectionPatch(tables, directions, row)):
            resid, _ = start_rows(base, row, slice(start, start + n_columns), patch, norm)
        add_updates(resid, [resid], norm)


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
        _backward(
            start_rows(base, torch.zeros(ROWS, dtype=torch.long), columns, patch, _norm(norm, d_model, dtype))
        )

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
