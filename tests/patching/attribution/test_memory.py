"""Memory stays within the budget, and does not grow with how finely the same activations are scored."""

from __future__ import annotations

import pytest
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.models.memory_meter import MemoryMeter

COARSE = ("resid_pre", "attn_out", "mlp_out", "q", "k", "v", "z", "mlp_post@all")
FINE = ("resid_pre", "attn_out", "mlp_out", "q@pos", "k@pos", "v@pos", "z@pos", "mlp_post.n*")


def peak(model, task, sites, **options):
    interp.patch(model, task.select([0]), sites, progress=False, **options)
    with MemoryMeter() as meter:
        scores = interp.patch(model, task, sites, progress=False, **options)
    return meter.peak, scores


@pytest.mark.parametrize("method", ["attribution", "relevance", "ig"])
def test_the_budget_holds(method):
    model, task = specimen("llama").model, random_task([24] * 12, "right", [2] * 12, seed=1)
    budget = 4 << 20
    used, _ = peak(model, task, FINE, method=method, memory_budget=budget)
    assert used < budget
    # and it is used: more than one prompt went into a block
    assert used > budget / 10


def test_finer_sites_cost_their_scores_only():
    model, task = specimen("gpt2").model, random_task([20] * 6, "right", [2] * 6, seed=1)
    coarse, few = peak(model, task, COARSE, method="attribution")
    fine, many = peak(model, task, FINE, method="attribution")
    cells = sum(part.raw.numel() for part in many.values()) - sum(part.raw.numel() for part in few.values())
    assert cells > 500
    # scores of a cell and prompt as they add up, as they are laid out, and as the record keeps them
    assert fine - coarse < 4 * 4 * cells * len(task) + (64 << 10)
