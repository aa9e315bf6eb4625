"""Launches of the readout's kernels that must compile for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from interp.kernels.norm import Norm
from interp.kernels.readout import read_tokens, summarise_vocabulary
from interp.kernels.readout.tokens.ops import read_tokens_backward_op
from interp.kernels.readout.vocabulary.ops import scan_backward_op

_HALVES = (torch.bfloat16, torch.float16)


def launches() -> dict[str, Callable[[], object]]:
    """Each kernel at a model's sizes, by what it stands for."""
    found: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, *_HALVES):
        name = str(dtype).removeprefix("torch.")
        found[f"tokens {name}"] = partial(_read, dtype, backward=False)
        found[f"tokens backward {name}"] = partial(_read, dtype, backward=True)
        found[f"vocabulary {name}"] = partial(_summarise, dtype, compared=False)
        found[f"vocabulary with reference {name}"] = partial(_summarise, dtype, compared=True)
        found[f"vocabulary backward {name}"] = partial(_slopes, dtype)
    found["one row, one token"] = _one
    return found


def _one() -> None:
    """Arguments that are 1, which Triton makes constants."""
    resid, W_U, only = torch.ones(1, 1, 64), torch.ones(64, 100), torch.zeros(1, dtype=torch.long)
    row, reference = torch.ones(1), torch.ones(1, 1, 100)
    read_tokens(resid, W_U, only[None], only)
    summarise_vocabulary(resid, W_U, only[None], only, reference=reference, others=True, argmax=True)
    scan_backward_op(resid[0], W_U, None, None, 1, reference[0], row, row, 0.0, row, row, False)
    grad = torch.ones(1, 1, 1)
    read_tokens_backward_op(grad, resid, W_U, only[None], only, None, 0, 0.0, None, None, 0.0, True)


def _read(dtype: torch.dtype, backward: bool) -> None:
    d_model = 2048 if dtype == torch.bfloat16 else 768
    W_U = _rand(5003, d_model, dtype=dtype).T
    resid = _rand(64, 1, d_model, dtype=dtype)
    gain, bias = _rand(d_model, dtype=dtype), _rand(d_model, dtype=dtype)
    tokens, prompts = _tokens(4), torch.zeros(64, dtype=torch.long)
    kinds = ("rmsnorm", True, 30.0) if dtype == torch.bfloat16 else ("layernorm", False, None)
    if backward:
        kind = 3 if kinds[0] == "rmsnorm" else 1
        grad = _rand(64, 1, 2, dtype=dtype)
        shift = bias if kind == 1 else None
        read_tokens_backward_op(
            grad, resid, W_U, tokens, prompts, None, kind, 1e-5, gain, shift, kinds[2] or 0.0, True
        )
        return
    norm = Norm(kinds[0], 1e-5, gain, bias, kinds[1])  # type: ignore[arg-type]
    read_tokens(resid, W_U, tokens, prompts, None, norm, kinds[2])


def _summarise(dtype: torch.dtype, compared: bool) -> None:
    d_model = 2048 if dtype == torch.bfloat16 else 768
    W_U = _rand(5003, d_model, dtype=dtype).T
    resid = _rand(512, 1, d_model, dtype=dtype)
    reference = _rand(4, 1, 5003, dtype=dtype) if compared else None
    summarise_vocabulary(
        resid,
        W_U,
        _tokens(4),
        torch.zeros(512, dtype=torch.long),
        _rand(5003, dtype=dtype) if compared else None,
        soft_cap=30.0 if compared else None,
        reference=reference,
        others=not compared,
        argmax=not compared,
    )


def _slopes(dtype: torch.dtype) -> None:
    W_U = _rand(5003, 768, dtype=dtype).T
    x, row = _rand(512, 768, dtype=dtype), _rand(512, dtype=torch.float32)
    prompts, reference = torch.zeros(512, dtype=torch.long), _rand(4, 5003, dtype=dtype)
    scan_backward_op(x, W_U, None, prompts, 1, reference, row, row, 0.0, row, row, False)


def _rand(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float32).to(dtype)


def _tokens(n: int) -> Tensor:
    return torch.arange(2 * n).view(n, 2)
