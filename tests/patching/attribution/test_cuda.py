"""Estimates on a GPU are those on a CPU."""

from __future__ import annotations

import pytest
import torch
from model_zoo import make_bare
from random_tasks import random_task

import interp
from interp.patching.attribution.methods import METHODS

SITES = ("z", "q@pos", "k", "resid_pre", "mlp_post.n*", "pattern@pos")


@pytest.mark.cuda
@pytest.mark.parametrize("method", [name for name in METHODS if name != "exact"])
@pytest.mark.parametrize("ablation", ["source", "mean", "resample"])
def test_scores_do_not_depend_on_the_device(method, ablation):
    task = random_task([6, 6, 6], "right", [1, 0, 2], seed=2)
    sites = [site for site in SITES if ablation != "mean" or "pattern" not in site]
    found = []
    for device in ("cpu", "cuda"):
        model = interp.load_model(make_bare("llama"), device=torch.device(device))
        scores = interp.patch(model, task, sites, method=method, ablation=ablation, progress=False)
        assert scores.verify(5, 5, progress=False).names
        found.append(scores)
    for site in sites:
        torch.testing.assert_close(found[0][site].raw, found[1][site].raw, atol=1e-3, rtol=1e-3)


@pytest.mark.cuda
def test_tokens_and_conservation_on_a_gpu():
    task = random_task([6, 5], "left", [1, 0], seed=2)
    model = interp.load_model(make_bare("gpt2"), device=torch.device("cuda"))
    scores = interp.attribute_tokens(model, task, progress=False)
    assert interp.check_masking(model, task, scores, progress=False).gaps
    assert interp.check_conservation(model, task).largest_gap < 1e-4
