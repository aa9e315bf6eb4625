"""Latents of attached coders in patching sweeps: exact through hooks, and by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_coders import D_SAE, random_coder
from random_tasks import random_task
from torch import Tensor

import interp
from interp.coders.substitute import substitute
from interp.errors import PatchError

SITE = "mlp_out[0]"


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def attached(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """A model with two coders in it, and a task of prompts of unequal length."""
    model = specimen(request.param).model
    task = random_task([5, 7, 4], "left", [1, 2, 0], 3)
    wide = model.traits.n_heads * model.traits.d_head
    coders = [random_coder("topk", 36, sites=(SITE,)), random_coder("topk", wide, sites=("z[1]",), seed=5)]
    with substitute(model, coders):
        yield model, task
        # so that the coders acted, whatever the test refused to do
        model(task.clean)


def patched_by_hand(model: Any, task: Any, site: str, latents: list[int], columns: Tensor) -> Tensor:
    """Logit difference of every prompt with these latents taken from the clean run at some columns."""
    with torch.no_grad():
        clean = interp.capture(model, task.clean, f"{site}:latent*", attention_mask=task.attention_mask)
        wanted = clean[f"{site}:latent*"]

        def write(part: Tensor) -> Tensor:
            new = part.clone()
            for latent in latents:
                new[..., latent] = torch.where(columns, wanted[..., latent], part[..., latent])
            return new

        with interp.intervene(model, interp.apply(f"{site}:latent*", write)):
            logits = model(task.corrupted, task.attention_mask)
    rows = torch.arange(len(task))
    last = logits[rows, task.end]
    return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]


def test_exact_patches_are_those_made_by_hand(attached: tuple[Any, Any]) -> None:
    model, task = attached
    sites = [f"{SITE}:latent5,17", f"{SITE}:latent*@-1", "z[1]:latent*"]
    scores = interp.patch(model, task, sites, progress=False)
    assert scores.provenance.backend == "hooked"
    assert scores[sites[0]].axes == ()
    assert scores[sites[1]].axes == scores[sites[2]].axes == ("latent",)
    every = task.mask
    last = torch.zeros_like(every)
    last[torch.arange(len(task)), task.end] = True
    expected = patched_by_hand(model, task, SITE, [5, 17], every)
    torch.testing.assert_close(scores[sites[0]].per_prompt, expected, atol=1e-5, rtol=1e-5)
    for index, (site, columns) in ((1, (SITE, last)), (2, ("z[1]", every))):
        found = scores[sites[index]].per_prompt
        assert found.shape == (D_SAE, 3)
        by_hand = [patched_by_hand(model, task, site, [i], columns) for i in range(D_SAE)]
        torch.testing.assert_close(found, torch.stack(by_hand), atol=1e-5, rtol=1e-5)
        assert (found - found.median(0).values).abs().max() > 1e-2
    assert scores[sites[1]].name_at((3,)) == "mlp_out L0 @ -1 latent 3"


@pytest.mark.parametrize("method", ["attribution", "ig"])
def test_attribution_is_change_times_gradient(attached: tuple[Any, Any], method: str) -> None:
    """First order written out; integrated along the activation it adds up to the exact effect of all latents."""
    model, task = attached
    site = f"{SITE}:latent*"
    if method == "ig":
        options = interp.IntegratedGradients(over="activation", steps=24)
        found = interp.patch(model, task, site, method=options, progress=False)[site]
        whole = interp.patch(model, task, SITE + ":latent" + ",".join(map(str, range(D_SAE))), progress=False)
        (joint,) = whole.sites.values()
        assert float((found.raw - found.corrupted).sum()) == pytest.approx(
            float(joint.raw - joint.corrupted), abs=1e-3
        )
        return
    rows = torch.arange(len(task))

    def metric(logits: Tensor) -> Tensor:
        last = logits[rows, task.end]
        return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]

    mask = {"attention_mask": task.attention_mask}
    clean = interp.capture(model, task.clean, site, **mask)[site].detach()
    base = interp.capture(model, task.corrupted, site, gradients_of=metric, **mask)
    assert base.grads is not None
    expected = ((clean - base[site]) * base.grads[site] * task.mask[..., None]).sum(1)
    found = interp.patch(model, task, site, method=method, progress=False)[site]
    assert found.per_prompt is not None
    change = found.per_prompt - metric(base.logits)
    torch.testing.assert_close(change, expected.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-per-position"])
def test_ablated_latents(attached: tuple[Any, Any], ablation: str) -> None:
    model, task = attached
    mask, one = task.attention_mask, f"{SITE}:latent4"
    exact = interp.patch(model, task, f"{one}@all", ablation=ablation, progress=False)
    with torch.no_grad():
        cache = interp.capture(model, task.clean, f"{SITE}:latent*", attention_mask=mask)
        change = interp.zero(one)
        if ablation != "zero":
            change = interp.mean(one, cache, per_position=ablation == "mean-per-position")
        with interp.intervene(model, change):
            logits = model(task.corrupted, mask)
    rows = torch.arange(len(task))
    last = logits[rows, task.end]
    by_hand = (last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]).mean()
    assert float(exact[f"{one}@all"].raw) == pytest.approx(float(by_hand), abs=1e-5)


def test_subspaces_of_latents(attached: tuple[Any, Any]) -> None:
    model, task = attached
    site = interp.Site("mlp_out", 0, latents=()).within(torch.ones(D_SAE)).at("all")
    with pytest.raises(PatchError, match="directions of 29 entries; the activation has 1"):
        interp.patch(model, task, site, progress=False)
    with pytest.raises(PatchError, match=r"cannot run .* other interventions are active"):
        interp.patch(model, task, f"{SITE}:latent3", backend="wavefront", progress=False)
