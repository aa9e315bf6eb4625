"""JumpReLU's kernels against its plain form in fp64, window and all."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import TOLERANCES, kernel_errors
from torch import Tensor

from interp.kernels import coder_step, use_kernels
from interp.kernels.coder_step import SparseLatents

pytestmark = pytest.mark.triton

WIDTH = 0.5


def _entries(values: Tensor, latents: Tensor, n_rows: int, d_sae: int) -> SparseLatents:
    starts = torch.arange(n_rows + 1, device=values.device) * (len(latents) // max(n_rows, 1))
    return SparseLatents(values, latents, starts, d_sae)


def _jump(pre: Tensor, thresholds: Tensor, latents: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    entries = _entries(pre, latents, n_rows, len(thresholds))
    jumped = coder_step.jump_relu(entries, thresholds, WIDTH)
    return jumped, coder_step.count_above(entries, pre, thresholds, WIDTH)


@pytest.mark.parametrize(
    ("n_rows", "k", "d_sae"), [(1, 1, 1), (0, 1, 3), (5, 3, 7), (40, 2, 2), (40, 30, 31)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values_and_gradients(
    n_rows: int, k: int, d_sae: int, dtype: torch.dtype, device: torch.device
) -> None:
    draw = torch.Generator().manual_seed(n_rows)
    latents = torch.cat(
        [torch.randperm(d_sae, generator=draw)[:k] for _ in range(n_rows)] or [torch.empty(0)]
    )
    # a third on either side of the window, and some on the threshold itself
    pre = torch.rand(len(latents), generator=draw).mul(1.5).to(device, dtype)
    thresholds = torch.full((d_sae,), 0.75).to(device, dtype)
    pre[::7] = 0.75
    inputs = {
        "pre": pre.requires_grad_(),
        "thresholds": thresholds.requires_grad_(),
        "latents": latents.long().to(device),
    }
    errors = kernel_errors(partial(_jump, n_rows=n_rows), inputs)
    assert max(errors.values()) < TOLERANCES[dtype], errors


def test_the_window(device: torch.device) -> None:
    """Inside it a threshold learns from entries on either side; on its edge and outside from none."""
    thresholds = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    pre = torch.tensor([0.75, 0.8, 1.0, 1.2, 1.25, 1.9], device=device, requires_grad=True)
    latents = torch.tensor([0, 0, 0, 0, 0, 1], device=device)
    entries = SparseLatents(pre, latents, torch.arange(7, device=device), 2)
    with use_kernels("triton"):
        values = coder_step.jump_relu(entries, thresholds, WIDTH)
        of_pre, of_thresholds = torch.autograd.grad(values.sum(), [pre, thresholds])
        counted = coder_step.count_above(entries, pre, thresholds, WIDTH)
        (of_count,) = torch.autograd.grad(counted.sum(), thresholds)
    assert values.tolist() == pytest.approx([0, 0, 0, 1.2, 1.25, 0])
    assert of_pre.tolist() == [0, 0, 0, 1, 1, 0]
    # minus threshold / width, or minus 1 / width, for each of three entries and of one
    assert of_thresholds.tolist() == pytest.approx([-3 / WIDTH, -2 / WIDTH])
    assert of_count.tolist() == pytest.approx([-3 / WIDTH, -1 / WIDTH])
    assert counted.tolist() == [0, 0, 0, 1, 1, 0]
