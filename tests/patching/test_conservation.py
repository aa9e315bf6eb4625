"""Relevance adds up to the output at every cut of every family, once biases and attention are counted."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from model_zoo import NAMES, make_bare, specimen
from random_tasks import random_task

import interp
from interp.errors import MetricError, PatchError
from interp.models.relevance import RULES, RelevanceRules

CONSERVING = [name for name in RULES if name != "gradient"]


@pytest.fixture(params=["right", "left", "none"])
def task(request):
    lengths = [6, 6, 6] if request.param == "none" else [7, 4, 6]
    return random_task(lengths, "left" if request.param == "left" else "right", [2, 1, 0], seed=3)


@cache
def in_double(name):
    return interp.load_model(make_bare(name, seed=4).double())


@pytest.mark.parametrize("rules", CONSERVING)
@pytest.mark.parametrize("name", NAMES)
def test_the_account_closes_at_every_cut(name, rules, task):
    model = in_double(name)
    if model(task.clean, task.attention_mask)[:, -1].isnan().any():
        # Llama's kin with padding on the left are NaN in fp64, in the model itself
        model = specimen(name).model
    for run in ("clean", "corrupted"):
        found = interp.check_conservation(model, task, rules, run=run)
        assert found.cuts == ("resid_pre[0]", "resid_pre[1]", "resid_post[1]")
        # rotary tables, RMSNorms and Gemma's embedding scale are fp32 whatever the model
        close = found.largest_gap < (1e-6 if model.dtype == torch.float64 else 1e-4)
        assert close or found.gaps.abs().max() < 1e-6, found.to_frame()
        assert torch.isfinite(found.relevance).all() and found.relevance.abs().max() > 0
        if rules == "relp-ah":
            assert found.attention.abs().max() < 1e-5 * max(1.0, float(found.relevance.abs().max()))


def test_the_output_of_a_linear_metric_is_the_metric(task):
    model = specimen("llama").model
    found = interp.check_conservation(model, task)
    scores = interp.patch(model, task, "embed", progress=False)
    assert found.output == pytest.approx(scores["embed"].clean, rel=1e-5)
    # no bias anywhere in Llama: the input embeddings carry all of the output
    assert found.biases.abs().max() == 0
    assert found.relevance[0] == pytest.approx(found.output, rel=1e-4)


def test_fp64_closes_to_fp64_and_biases_count(task):
    found = interp.check_conservation(in_double("gpt2"), task, "relp-ah")
    assert found.largest_gap < 1e-12
    assert found.biases.abs().max() > 1e-3


def test_fp32_closes_to_fp32(task):
    assert interp.check_conservation(specimen("gpt2").model, task, "relp-ah").largest_gap < 1e-5


def test_ordinary_gradients_leave_a_gap_that_is_shown(task):
    found = interp.check_conservation(specimen("gpt2").model, task, "gradient")
    assert found.largest_gap > 0.05
    only_norms = RelevanceRules("norms", activation="gradient", attention="ah")
    assert interp.check_conservation(specimen("gpt2").model, task, only_norms).largest_gap > 0.01


def test_wrong_choices(task):
    model = specimen("gpt2").model
    with pytest.raises(MetricError, match="no gradient"):
        interp.check_conservation(model, task, metric="accuracy")
    with pytest.raises(PatchError, match="clean"):
        interp.check_conservation(model, task, run="cleen")


def test_it_leaves_the_parameters_alone(task):
    model = specimen("plain").model
    before = [(p.requires_grad, p.grad) for p in model.module.parameters()]
    interp.check_conservation(model, task)
    assert [(p.requires_grad, p.grad) for p in model.module.parameters()] == before
