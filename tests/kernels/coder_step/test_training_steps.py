"""A training step of every architecture on kernels, against the same step without them in fp64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kernel_checks import relative_error
from torch import Tensor

from interp.coders.batch import CoderBatch
from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.encoders import StepState
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.kernels import use_kernels

pytestmark = pytest.mark.triton

ROWS, D, D_SAE, K = 4, 5, 16, 3
KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": K},
    "topk, multi": {"architecture": "topk", "k": K, "multi_k": True},
    "batch-topk": {"k": K},
    "jumprelu": {},
    "gated": {},
    "standard": {},
    "matryoshka": {"k": K, "widths": (4, 9, D_SAE)},
    "gradient": {"k": K, "preselect": 2},
    "cross-layer-transcoder": {"k": K, "activation": "topk"},
    "crosscoder": {"k": K},
}


def _draw_coder(kind: str) -> Coder:
    options = dict(KINDS[kind])
    config = CoderConfig(options.pop("architecture", kind), d_sae=D_SAE, **options)
    n_sites = 2 if kind.startswith("cross") else 0
    coder = make_coder(config, CoderShape(D, D, n_sites, n_sites), seed=1)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
            if "threshold" in name:
                # a third of the pre-activations are about it
                parameter.fill_(-0.5)
    return coder.train()


def _draw_batch(kind: str) -> CoderBatch:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, *((2,) if kind.startswith("cross") else ()), D, generator=draw)
    target = torch.randn(x.shape, generator=draw) if "transcoder" in kind else x
    return CoderBatch(x, target, torch.randn(x.shape, generator=draw))


def _step(
    coder: Coder, batch: CoderBatch, state: StepState, choice: Any, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The loss, its parts, every gradient, the latents that fired, and what the coder kept of the step."""
    coder = copy.deepcopy(coder).to(dtype)
    with use_kernels(choice):
        batch = CoderBatch(batch.x, batch.x, batch.grad) if batch.is_reconstruction else batch
        loss = coder.loss(batch.to(dtype=dtype), state)
        loss.loss.backward()
        latents = [fired.to_dense() for fired in loss.fired]
        counts = [fired.active_counts() for fired in loss.fired]
    found = {"loss": loss.loss.detach(), "latents": torch.stack(latents), "error": loss.error}
    found |= {"counts": torch.stack(counts)} | loss.parts | dict(coder.named_buffers())
    found |= {f"d {n}": p.grad for n, p in coder.named_parameters() if p.grad is not None}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_kernels(kind: str, device: torch.device) -> None:
    coder, batch = _draw_coder(kind).to(device), _draw_batch(kind).to(device)
    dead = (torch.arange(D_SAE, device=device) % 3 == 0).expand(len(coder.encoders), -1)
    state = StepState(sparsity=0.7, dead=dead, revival="auxk", aux_k=4)
    found = _step(coder, batch, state, "triton", torch.float32)
    truth = _step(coder, batch, state, "reference", torch.float64)
    assert set(found) == set(truth)
    assert "auxk" in found and any(name.startswith("d ") for name in found)
    for name, value in truth.items():
        assert relative_error(found[name], value) < 1e-5, name


@pytest.mark.parametrize("kind", ["topk", "batch-topk", "jumprelu", "gated", "matryoshka"])
def test_a_step_in_bf16(kind: str, device: torch.device) -> None:
    """Against plain PyTorch in the same dtype, so that both choose among the same pre-activations."""
    coder, batch = _draw_coder(kind).to(device), _draw_batch(kind).to(device)
    state = StepState(sparsity=0.7)
    found = _step(coder, batch, state, "triton", torch.bfloat16)
    truth = _step(coder, batch, state, "reference", torch.bfloat16)
    assert torch.equal(found["counts"], truth["counts"])
    # Triton's interpreter cuts fp32 off to bf16, where a GPU rounds
    tolerance = 1e-2 if device.type == "cuda" else 2e-2
    for name, value in truth.items():
        assert relative_error(found[name], value) < tolerance, name


@pytest.mark.parametrize("kind", ["topk", "batch-topk", "jumprelu"])
def test_use_after_training(kind: str, device: torch.device) -> None:
    coder, x = _draw_coder(kind).eval().to(device), _draw_batch(kind).x.to(device)
    with torch.no_grad(), use_kernels("triton"):
        latents = coder.encode(x)
        out = coder.decode(latents)
    with torch.no_grad(), use_kernels("reference"):
        wide = coder.double()
        wanted = wide.encode(x.double())
        assert relative_error(latents, wanted) < 1e-6
        assert relative_error(out, wide.decode(wanted)) < 1e-6


def test_a_batch_in_which_nothing_fires(device: torch.device) -> None:
    """Fewer positive pre-activations than there is room for, and a threshold that has nothing to follow."""
    coder, batch = _draw_coder("batch-topk").to(device), _draw_batch("batch-topk").to(device)
    with torch.no_grad():
        coder.b_enc.fill_(-50.0)
    for fire in (False, True):
        if fire:
            with torch.no_grad():
                coder.b_enc[3] = 100.0
        found = _step(coder, batch, StepState(), "triton", torch.float32)
        truth = _step(coder, batch, StepState(), "reference", torch.float64)
        for name, value in truth.items():
            assert relative_error(found[name], value) < 1e-5, name
        assert (float(found["encoders.0.threshold"]) > 0) == fire
