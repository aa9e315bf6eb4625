"""All kernels at once, through what users call: the same numbers as plain PyTorch, and on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_tasks import random_task
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.kernels import use_kernels
from interp.types import parse_site

TOLERANCE = 1e-5
"""Of the largest number of a result, or of .2 where all are small: kernels and plain PyTorch on one device."""
ACROSS_DEVICES = 1e-4
"""The same across devices: the promise that backends make each other."""

SITES = ("z", "resid_pre", "mlp_out@-1", "mlp_post[0].n3", "q[0.1]", "k[1.0]")


def patch_exactly(model: Any, task: Any, metric: str = "logit_diff") -> dict[str, Tensor]:
    sites = [site for site in SITES if parse_site(site).component in model.components]
    scores = interp.patch(model, task, sites, metric=metric, backend="wavefront", progress=False)
    assert scores.provenance.backend == "wavefront"
    return {str(site): scores[site].raw for site in scores}


def patch_by(method: str) -> Callable[..., dict[str, Tensor]]:
    def run(model: Any, task: Any) -> dict[str, Tensor]:
        scores = interp.patch(model, task, ["z", "resid_post"], method=method, progress=False)
        return {str(site): scores[site].raw for site in scores}

    return run


def score_edges_by(method: str) -> Callable[..., dict[str, Tensor]]:
    def run(model: Any, task: Any) -> dict[str, Tensor]:
        scores = interp.score_edges(model, task, method=method, progress=False)
        return {"effects": scores.effects, "standard errors": scores.standard_errors}

    return run


CALLS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "patch": patch_exactly,
    "patch kl": lambda model, task: patch_exactly(model, task, "kl"),
    "patch loss": lambda model, task: patch_exactly(model, task, "loss"),
    "attribution": patch_by("attribution"),
    "relevance": patch_by("relevance"),
    "edges": score_edges_by("exact"),
    "edges eap": score_edges_by("eap"),
    "edges relevance": score_edges_by("relevance"),
}


def compare(found: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float) -> None:
    assert list(found) == list(truth)
    for name, value in truth.items():
        assert value.isfinite().all()
        largest = max(float(value.abs().max()), 0.2)
        error = float((found[name].cpu() - value.cpu()).abs().max())
        assert error <= tolerance * largest, (name, error, largest)


def is_taken(family: str, call: str) -> bool:
    """Interpreted, all of it takes minutes: each call in two families, each family in several calls."""
    if torch.cuda.is_available():
        return True
    first = list(CALLS).index(call)
    return FAMILIES.index(family) in {first % len(FAMILIES), (first + 3) % len(FAMILIES)}


CASES = [(family, call) for family in FAMILIES for call in CALLS if is_taken(family, call)]


@pytest.mark.triton
@pytest.mark.parametrize(("family", "call"), CASES)
def test_kernels_give_the_numbers_of_plain_pytorch(family: str, call: str, device: torch.device) -> None:
    model = interp.load_model(make_hf_model(family), device=device)
    task = random_task([5, 4], "left", [2, 1])
    found = []
    for choice in ("triton", "reference"):
        with use_kernels(choice):  # type: ignore[arg-type]
            found.append(CALLS[call](model, task))
    compare(*found, TOLERANCE)


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("call", CALLS)
def test_a_gpu_gives_the_numbers_of_a_cpu(family: str, call: str) -> None:
    task = random_task([9, 7, 8], "left", [3, 2, 5])
    found = [
        CALLS[call](interp.load_model(make_hf_model(family), device=where), task) for where in ("cuda", "cpu")
    ]
    compare(*found, ACROSS_DEVICES)
