"""Launches of every kernel of the coder step, at sizes of real trainings, for compilation without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from interp.kernels import coder_step
from interp.kernels.coder_step import SparseLatents

ROWS, D, D_SAE, K = 8, 768, 32768, 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def launches() -> dict[str, Callable[[], object]]:
    """Functions that launch, by name; each dtype once, but for choices, which take numbers as 16 or 32 bits."""
    found: dict[str, Callable[[], object]] = {
        "top bfloat16": partial(_top, torch.bfloat16, (K,)),
        "top float32": partial(_top, torch.float32, (512,)),
        "top of all bfloat16": partial(_top_of_all, torch.bfloat16, (ROWS * K, ROWS * D_SAE // 4)),
        "top of all float32": partial(_top_of_all, torch.float32, (ROWS * K,)),
    }
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        found |= {
            f"above {name}": partial(_above, dtype),
            f"sums {name}": partial(_sums, dtype),
            f"jump {name}": partial(_jump, dtype),
        }
    return found


def _top(dtype: torch.dtype, counts: tuple[int, ...]) -> None:
    scores = torch.zeros(ROWS, D_SAE, dtype=dtype)
    for k in counts:
        coder_step.select_top(scores, k)
    coder_step.select_top(scores[:, :4096].contiguous(), K)
    coder_step.select_top(scores, D // 2, torch.ones(D_SAE, dtype=torch.bool))


def _top_of_all(dtype: torch.dtype, counts: tuple[int, ...]) -> None:
    scores = torch.zeros(ROWS, D_SAE, dtype=dtype)
    for n in counts:
        coder_step.select_top_of_all(scores, n)


def _above(dtype: torch.dtype) -> None:
    # how many there are is read from the device, which here does not run
    from interp.kernels.coder_step.above.triton import collect_marked, mark_above

    scores = torch.zeros(ROWS, D_SAE, dtype=dtype)
    words, ends = mark_above(scores, torch.zeros(D_SAE))
    collect_marked(scores, words, ends, 100)


def entries(dtype: torch.dtype) -> SparseLatents:
    """The same number of latents in every row, some of which fire in all."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(ROWS * 16, D_SAE // 64, generator=generator).topk(K, dim=1).indices
    return SparseLatents.from_top(torch.ones(ROWS * 16, K, dtype=dtype), latents, D_SAE)


def _sums(dtype: torch.dtype) -> None:
    chosen = entries(dtype)
    x = torch.zeros(chosen.n_rows, D, dtype=dtype, requires_grad=True)
    W = torch.zeros(D_SAE, D, dtype=dtype, requires_grad=True)
    b = torch.zeros(D_SAE, dtype=dtype, requires_grad=True)
    fired = coder_step.attach_encoder(chosen, x, W, b)
    out = coder_step.sparse_decode(fired, W)
    taken = coder_step.take_by_latent(b, fired)
    loss: Tensor = out.square().sum() + taken.sum()
    torch.autograd.grad(loss, [x, W, b])


def _jump(dtype: torch.dtype) -> None:
    chosen = entries(dtype)
    thresholds = torch.ones(D_SAE, dtype=dtype, requires_grad=True)
    pre = chosen.values.requires_grad_()
    values = coder_step.jump_relu(chosen, thresholds, 0.1)
    counted = coder_step.count_above(chosen, pre.detach(), thresholds, 0.1)
    torch.autograd.grad(values.sum() + counted.sum(), [pre, thresholds])
