"""Injection: rows that begin with a patch of every kind, and rows in flight with updates added."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from interp.bench.kernel_case import Inputs, KernelCase
from interp.kernels.inject import DirectionPatch, Patch, PositionPatch, add_updates, start_rows
from interp.kernels.norm import Norm, normalise

OP = "inject"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
NormName = Literal["layernorm", "rmsnorm"]


def list_cases(quick: bool = False) -> list[KernelCase]:
    """Sweeps of GPT-2 small, with an LayerNorm, and of a model with 4,096 entries a row and an RMSNorm."""
    if quick:
        return [
            *_list_starts(8, 2, 6, 4, 36, (3, 10), 20, "layernorm", torch.float32),
            *_list_starts(8, 2, 6, 4, 36, (3, 10), 20, "rmsnorm", torch.bfloat16),
            *(_updates_case(20, 36, n, "rmsnorm", torch.float32) for n in (1, 2)),
            _backward_case(20, 36, "layernorm", torch.float32),
        ]
    bf16, fp32 = torch.bfloat16, torch.float32
    found = []
    for dtype in (bf16, fp32):
        found += _list_starts(2048, 32, 64, 32, 768, (12, 64), 3072, "layernorm", dtype)
        found += [_updates_case(65536, 768, n, "layernorm", dtype) for n in (1, 2)]
        found.append(_backward_case(65536, 768, "layernorm", dtype))
    return [
        *found,
        *_list_starts(512, 16, 64, 32, 768, (12, 64), 3072, "layernorm", bf16),
        *_list_starts(1024, 16, 64, 32, 4096, (32, 128), 14336, "rmsnorm", bf16),
        *(_updates_case(32768, 4096, n, "rmsnorm", bf16) for n in (1, 2)),
        _backward_case(32768, 4096, "rmsnorm", bf16),
    ]


# rows that begin


def _list_starts(
    n_rows: int,
    n_prompts: int,
    n_pos: int,
    n_columns: int,
    d_model: int,
    heads: tuple[int, int],
    d_mlp: int,
    norm: NormName,
    dtype: torch.dtype,
) -> list[KernelCase]:
    """The last ``n_columns`` of every prompt, all of them patched in half of the rows' places."""
    shape = {"row": n_rows, "prompt": n_prompts, "pos": n_columns, "d_model": d_model}
    n_tokens, table = n_rows * n_columns, n_prompts * n_columns
    stream = (2 * n_tokens + table) * d_model * dtype.itemsize + n_tokens + 8 * n_rows
    kinds: list[tuple[str, dict[str, int], int, int]] = [
        ("start with positions replaced", {}, table * d_model, 0),
        ("start with differences added", {}, 2 * table * d_model, n_tokens * d_model),
    ]
    for name, n_parts, rank in (("head", *heads), ("neuron", d_mlp, 1)):
        present = min(n_parts, n_rows)
        read = 2 * min(n_parts * table, n_tokens) * rank + present * rank * d_model
        # half of the places are patched
        kinds.append((f"start with a {name}", {name: n_parts, "rank": rank}, read, n_tokens * rank * d_model))
    return [
        KernelCase(
            OP,
            name,
            shape | own,
            dtype,
            partial(
                _draw_start, n_rows, n_prompts, n_pos, n_columns, d_model, name, own.get("rank", 0),
                next(iter(own.values()), 0), norm, dtype,
            ),
            _start,
            _eager_start,
            n_bytes=stream + read * dtype.itemsize,
            n_flops=flops + 8 * n_tokens * d_model,
            tolerance=TOLERANCES[dtype],
        )
        for name, own, read, flops in kinds
    ]  # fmt: skip


def _draw_start(
    n_rows: int,
    n_prompts: int,
    n_pos: int,
    n_columns: int,
    d_model: int,
    name: str,
    rank: int,
    n_parts: int,
    norm: NormName,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    found = _draw_norm(d_model, norm, dtype, device, generator) | {
        "base": draw(n_prompts, n_pos, d_model),
        "prompts": torch.arange(n_rows, device=device) % n_prompts,
        "columns": slice(n_pos - n_columns, n_pos),
        "where": (torch.rand(n_rows, n_columns, generator=generator) < 0.5).to(device),
    }
    if not rank:
        found["new"] = draw(n_prompts, n_pos, d_model)
        found["old"] = None if "replaced" in name else draw(n_prompts, n_pos, d_model)
        return found
    found |= {key: draw(n_prompts, n_pos, n_parts, rank) for key in ("new", "old")}
    found["directions"] = draw(n_parts, rank, d_model) * rank**-0.5
    # a part's rows stand together, one for each prompt, as a sweep lays them out
    found["part"] = torch.arange(n_rows, device=device) // n_prompts % n_parts
    return found


def _start(given: Inputs) -> tuple[Tensor, ...]:
    patch: Patch
    if "directions" in given:
        own = (given["new"], given["directions"], given["part"])
        patch = DirectionPatch(*own, given["old"], given["where"])
    else:
        patch = PositionPatch(given["new"], given["old"], given["where"])
    made = start_rows(given["base"], given["prompts"], given["columns"], patch, _norm_of(given))
    return tuple(part for part in made if part is not None)


def _eager_start(given: Inputs) -> tuple[Tensor, ...]:
    prompts, columns, where = given["prompts"], given["columns"], given["where"][..., None]
    resid = given["base"][:, columns].index_select(0, prompts)
    if "directions" in given:
        part, directions = given["part"], given["directions"]
        # one part's entries, not a copy of all parts for every row
        change = (given["new"][:, columns] - given["old"][:, columns])[prompts, :, part]
        rank = change.shape[2]
        if rank == 1:
            resid = resid + where * (change * directions[part])
        else:
            # the most that a library offers: a product for each row, its directions gathered
            resid = torch.where(where, torch.baddbmm(resid, change, directions[part]), resid)
    else:
        new = given["new"][:, columns].index_select(0, prompts)
        if given["old"] is not None:
            new = resid + new - given["old"][:, columns].index_select(0, prompts)
        resid = torch.where(where, new, resid)
    return resid, normalise(resid, _norm_of(given))


# rows in flight


def _updates_case(n: int, d_model: int, n_updates: int, norm: NormName, dtype: torch.dtype) -> KernelCase:
    moved = (n_updates + 3) * n * d_model * dtype.itemsize
    return KernelCase(
        OP,
        "add an update" if n_updates == 1 else "add two updates",
        {"token": n, "d_model": d_model},
        dtype,
        partial(_draw_updates, n, d_model, n_updates, norm, dtype),
        _add,
        _eager_add,
        n_bytes=moved,
        n_flops=(n_updates + 8) * n * d_model,
        tolerance=TOLERANCES[dtype],
    )


def _backward_case(n: int, d_model: int, norm: NormName, dtype: torch.dtype) -> KernelCase:
    # forward: two read and two written; backward: stream and two gradients read, one written
    return KernelCase(
        OP,
        "add an update, forward and backward",
        {"token": n, "d_model": d_model},
        dtype,
        partial(_draw_updates, n, d_model, 1, norm, dtype),
        partial(_there_and_back, True),
        partial(_there_and_back, False),
        n_bytes=8 * n * d_model * dtype.itemsize,
        n_flops=20 * n * d_model,
        tolerance=TOLERANCES[dtype],
        compiles=False,
    )


def _draw_updates(
    n: int,
    d_model: int,
    n_updates: int,
    norm: NormName,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> Inputs:
    names = ["resid", "first", "second"][: 1 + n_updates]
    drawn = {name: torch.randn(n, d_model, generator=generator).to(device, dtype) for name in names}
    return _draw_norm(d_model, norm, dtype, device, generator) | drawn


def _add(given: Inputs) -> tuple[Tensor, ...]:
    updates = [given[name] for name in ("first", "second") if name in given]
    resid, normed = add_updates(given["resid"], updates, _norm_of(given))
    assert normed is not None
    return resid, normed


def _eager_add(given: Inputs) -> tuple[Tensor, ...]:
    resid = given["resid"] + given["first"]
    resid = resid + given["second"] if "second" in given else resid
    return resid, normalise(resid, _norm_of(given))


def _there_and_back(kernel: bool, given: Inputs) -> tuple[Tensor, ...]:
    leaves = [given[name].detach().requires_grad_() for name in ("resid", "first")]
    inputs = {**given, "resid": leaves[0], "first": leaves[1]}
    with torch.enable_grad():
        made = (_add if kernel else _eager_add)(inputs)
        found = torch.autograd.grad(made, leaves, [part.detach().flip(-1) for part in made])
    return *(part.detach() for part in made), *found


def _draw_norm(
    d_model: int, norm: NormName, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> dict[str, object]:
    gain, bias = (torch.randn(d_model, generator=generator).to(device, dtype) for _ in range(2))
    return {"gain": gain, "bias": bias if norm == "layernorm" else None, "norm": norm}


def _norm_of(given: Inputs) -> Norm:
    return Norm(given["norm"], 1e-5, given["gain"], given["bias"])
