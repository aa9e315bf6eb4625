"""What approximate patching refuses, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task
from torch import Tensor

import interp
from interp import Attribution, AttributionStar, IntegratedGradients, Relevance, RelevanceRules
from interp.errors import InterpError, MetricError, PatchError, RuleError, SiteError
from interp.models.interventions import other_rows
from interp.patching.attribution.methods import METHODS, resolve_method
from interp.tasks.base import PromptPairs

APPROXIMATE = tuple(name for name in METHODS if name != "exact")


def make_task(lengths: tuple[int, ...] = (5, 5)) -> PromptPairs:
    return random_task(lengths, "right", [0] * len(lengths), seed=1)


def patch(site: Any = "z", task: PromptPairs | None = None, **options: Any) -> Any:
    options = {"method": "attribution", "progress": False} | options
    return interp.patch(specimen("gpt2").model, task or make_task(), site, **options)


@pytest.mark.parametrize("method", APPROXIMATE)
@pytest.mark.parametrize("metric", ["accuracy", "pair_accuracy", "rank"])
def test_a_metric_without_a_gradient(method: str, metric: str) -> None:
    with pytest.raises(MetricError, match=rf"{metric}.* has no gradient; take logit_diff.*method='exact'"):
        patch(method=method, metric=metric)


def test_exact_patching_needs_none() -> None:
    assert patch(method="exact", metric="accuracy")["z"].raw.shape == (2, 4)


def detached(logits: Tensor) -> Tensor:
    return logits.detach()[:, -1, 3]


def counted(logits: Tensor) -> float:
    return logits[:, -1, 3].mean().item()


def ranked(logits: Tensor) -> Tensor:
    return (logits[:, -1] > 0).sum(-1)


@pytest.mark.parametrize("method", APPROXIMATE)
@pytest.mark.parametrize("metric", [detached, counted, ranked])
def test_a_function_without_a_gradient(method: str, metric: Any) -> None:
    model = specimen("gpt2").model
    before = [parameter.requires_grad for parameter in model.module.parameters()]
    with pytest.raises(MetricError, match=rf"{metric.__name__}.* no gradient with respect to the logits"):
        patch(method=method, metric=metric)
    assert model.active_edits == [] and model.rules_in_force == []
    assert [parameter.requires_grad for parameter in model.module.parameters()] == before


@pytest.mark.parametrize("backend", ["wavefront", "hooked"])
@pytest.mark.parametrize("method", APPROXIMATE)
def test_a_backend_is_of_exact_patching(method: str, backend: str) -> None:
    label = "relevance" if method == "relevance" else method
    with pytest.raises(PatchError, match=f"backend='{backend}' says how exact patching runs") as error:
        patch(method=method, backend=backend)
    assert repr(label) in str(error.value)
    with pytest.raises(PatchError, match="backend"):
        patch(method=method, backend="hocked")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("atribution", "attribution"),
        ("attribution**", "attribution*"),
        ("relevence", "relevance"),
        ("relevance:relp_ah", "relevance:relp-ah"),
        ("ig:activations", "ig:activation"),
        ("Exact", "exact"),
    ],
)
def test_an_unknown_method_suggests_one(written: str, meant: str) -> None:
    with pytest.raises(PatchError, match=r"unknown method|method") as error:
        patch(method=written)
    assert "did you mean" in str(error.value) and repr(meant) in str(error.value)


@pytest.mark.parametrize("method", [None, 3, Attribution, "attribution:relp", "exact:hooked", ""])
def test_what_is_no_method(method: Any) -> None:
    with pytest.raises(PatchError, match="method"):
        patch(method=method)


def test_every_name_is_an_object() -> None:
    objects = {
        "attribution": Attribution(),
        "attribution*": AttributionStar(),
        "ig": IntegratedGradients(),
        "ig:activation": IntegratedGradients("activation"),
        "relevance": Relevance(),
        "relevance:relp-ah": Relevance("relp-ah"),
        "relevance:attnlrp": Relevance("attnlrp"),
        "relevance:gradient": Relevance("gradient"),
    }
    assert set(objects) == set(APPROXIMATE)
    for name, method in objects.items():
        assert resolve_method(name) == method and resolve_method(method) is method
        assert method.label == name
    assert resolve_method("exact") is None
    assert Relevance(RelevanceRules(name="mine", attention="ah")).label == "relevance:mine"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "at least one step; got 0"),
        ({"steps": -3}, "at least one step; got -3"),
        ({"over": "input"}, "path of integrated gradients.*'inputs'"),
        ({"over": "activations"}, "did you mean 'activation'"),
        ({"quadrature": "trapezoid"}, "quadrature"),
        ({"quadrature": "gauss_legendre"}, "did you mean 'gauss-legendre'"),
    ],
)
def test_integrated_gradients_of_nothing(options: dict[str, Any], match: str) -> None:
    with pytest.raises(PatchError, match=match):
        IntegratedGradients(**options)


def test_unknown_rules() -> None:
    with pytest.raises(RuleError, match="relp"):
        Relevance("rlep")
    with pytest.raises(RuleError):
        Relevance(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", APPROXIMATE)
def test_options_that_do_not_fit(method: str) -> None:
    for options, error in (
        ({"ablation": "meen"}, PatchError),
        ({"direction": "denoice"}, PatchError),
        ({"memory_budget": 0}, PatchError),
        ({"memory_budget": -5}, PatchError),
        ({"metric": "logit_dif"}, MetricError),
        ({"metric": "logit_diff@S3"}, InterpError),
    ):
        with pytest.raises(error):
            patch(method=method, **options)
    for site in ("zz", "z[9]", "resid_pre@S3", "z#0", "mlp_pre_linear", "resid_pre.n3"):
        with pytest.raises(InterpError):
            patch(site, method=method)
    with pytest.raises(SiteError):
        patch([], method=method)
    with pytest.raises(PatchError, match="mean of 'pattern' over positions has no meaning"):
        patch("pattern", method=method, ablation="mean")
    with pytest.raises(PatchError, match="single prompt"):
        patch(task=make_task((5,)), method=method, ablation="resample")
    with pytest.raises(PatchError, match="unequal length"):
        patch(task=make_task((5, 4)), method=method, ablation="resample")
    with pytest.raises(PatchError, match="longer reference prompts"):
        patch(
            task=make_task((5, 5)),
            method=method,
            ablation="mean-per-position",
            reference=torch.ones(2, 3).long(),
        )


def test_a_metric_of_the_wrong_shape() -> None:
    for metric in (lambda logits: logits[:, -1], lambda logits: logits[:1, -1, 0]):
        with pytest.raises(MetricError, match="returned shape"):
            patch(metric=metric)


def test_resampling_is_seeded() -> None:
    task = make_task((5, 5, 5, 5))
    assert other_rows(4, 0).tolist() != other_rows(4, 3).tolist()
    a, b, c = (patch(task=task, ablation="resample", seed=seed)["z"].raw for seed in (0, 3, 0))
    assert torch.equal(a, c) and not torch.equal(a, b)


def test_scores_of_more_prompts_are_not_verified_on_fewer() -> None:
    model = specimen("gpt2").model
    task = random_task([6, 6], "right", [1, 2], seed=1)
    scores = interp.patch(model, task.select([0, 0, 0]), "z", method="attribution", progress=False)
    with pytest.raises(PatchError, match="3 prompt pairs, the task has 2"):
        interp.verify_scores(model, task.select([0, 0]), scores, progress=False)


def test_steps_are_a_whole_number() -> None:
    with pytest.raises(PatchError, match="whole number; got '10'"):
        interp.IntegratedGradients(steps="10")  # type: ignore[arg-type]
