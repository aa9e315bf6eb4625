"""How prompts are taken: in blocks of any size, when memory runs out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from edge_cases import EdgeCase, fixed_edge_case
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.circuits.gradients import (
    EdgeAttribution,
    EdgeEstimates,
    EdgeIntegratedGradients,
    resolve_edge_method,
    score_edges_by_gradients,
)
from interp.circuits.gradients.setting import EdgeSetting
from interp.circuits.graph import build_graph
from interp.errors import CircuitError, InterpError, MetricError, PatchError
from interp.tasks.metrics import resolve_metric

METHODS = ("eap", "eap-ig", "eap-ig:activations", "eap-ig:clean-corrupted", "relevance", "atp*")


def assert_same(found: EdgeEstimates, expected: EdgeEstimates, what: object) -> None:
    size = float(expected.effects.abs().max())
    for name in ("effects", "standard_errors", "magnitude"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-5 * size, rtol=0, msg=f"{what} {name}")
    torch.testing.assert_close((found.clean, found.corrupted), (expected.clean, expected.corrupted))
    assert found.gaps == {name: pytest.approx(gap, abs=2e-5 * size) for name, gap in expected.gaps.items()}


def long_case(name: str, graph_kind: str) -> EdgeCase:
    """Five prompts whose first differences are far apart."""
    case = fixed_edge_case(name, 0, graph_kind)
    return replace(case, lengths=(7, 5, 6, 7, 4), first_difference=(0, 4, 2, 6, 3), ablation="source")


@pytest.mark.parametrize("name", METHODS)
def test_blocks_of_any_size_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt at a time leaves out more columns and multiplies smaller tiles."""
    method = resolve_edge_method(name)
    if isinstance(method, EdgeIntegratedGradients):
        method = replace(method, steps=2)
    case = long_case("gemma2", "neurons at S")
    assert method is not None
    whole = case.estimate(method)
    sizes: list[int] = []
    run = EdgeSetting.run

    def counted(self: EdgeSetting, rows: torch.Tensor, budget: int) -> Any:
        sizes.append(len(rows))
        return run(self, rows, budget)

    monkeypatch.setattr(EdgeSetting, "run", counted)
    # in blocks of five, of what fits, and of one
    for budget in (1 << 28, 1 << 19, 1 << 16):
        assert_same(case.estimate(method, memory_budget=budget), whole, (method, budget))
    assert sizes[0] == 5 and sizes[-5:] == [1] * 5


def test_blocks_are_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    case = long_case("llama", "")
    expected, run = case.estimate("eap-ig"), EdgeSetting.run
    tried: list[int] = []

    def scarce(self: EdgeSetting, rows: torch.Tensor, budget: int) -> Any:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no more")
        return run(self, rows, budget)

    monkeypatch.setattr(EdgeSetting, "run", scarce)
    assert_same(case.estimate("eap-ig"), expected, "halved")
    assert tried == [5, 2, 2, 1]


@pytest.mark.parametrize("method", METHODS)
def test_a_single_prompt_has_no_standard_error(method: str) -> None:
    case = replace(fixed_edge_case("gpt2", 0, ""), lengths=(6,), first_difference=(2,), ablation="source")
    found = case.estimate(method)
    assert bool(found.standard_errors.isnan().all()) and not bool(found.effects.isnan().any())


@pytest.mark.parametrize("method", METHODS)
def test_equal_prompts_have_no_effects(method: str) -> None:
    case = replace(fixed_edge_case("qwen3", 1, ""), first_difference=(7, 7, 7), ablation="source")
    found = case.estimate(method)
    # not zero to the bit on every CPU: products of other shapes may round otherwise
    assert float(found.effects.abs().max()) < 1e-6
    torch.testing.assert_close(found.clean, found.corrupted, rtol=0, atol=1e-6)


def test_half_precision_is_near(make_hf_model: Any) -> None:
    task = random_task([6, 6], "right", [1, 2], seed=3)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = interp.load_model(make_hf_model("llama", dtype=dtype))
        metric = resolve_metric(None, task)
        found.append(
            score_edges_by_gradients(
                model,
                task,
                build_graph(model),
                EdgeAttribution(),
                metric,
                memory_budget=1 << 24,
                progress=False,
            )
        )
    rough, fine = (each.effects for each in found)
    assert rough.dtype == torch.float32
    assert float(torch.corrcoef(torch.stack([rough, fine]))[0, 1]) > 0.99


def test_through_the_facade() -> None:
    case = fixed_edge_case("llama", 0, "S")
    for method in METHODS:
        expected = case.estimate(method)
        found = interp.score_edges(
            case.model,
            case.task,
            case.graph,
            method=method,
            metric=case.metric,
            progress=False,
            **case.options,
        )
        assert torch.equal(found.effects, expected.effects) and found.provenance.method == method
        assert found.gaps == expected.gaps
        assert (found.magnitude is None) == (expected.magnitude is None)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"ablation": "nothing"}, PatchError, "ablation"),
        ({"memory_budget": 0}, PatchError, "memory_budget"),
    ],
)
def test_options_that_mean_nothing(change: Any, error: type[InterpError], match: str) -> None:
    with pytest.raises(error, match=match):
        fixed_edge_case("gpt2", 0).estimate("eap", **change)


def test_what_has_no_gradient_or_no_meaning() -> None:
    model, task = specimen("gpt2").model, random_task([5, 5], "right", [1, 1], seed=3)
    graph = build_graph(model)

    def estimate(metric: Any = None, of: Any = graph) -> EdgeEstimates:
        found = resolve_metric(metric, task)
        return score_edges_by_gradients(
            model, task, of, EdgeAttribution(), found, memory_budget=1 << 24, progress=False
        )

    with pytest.raises(MetricError, match="'rank' has no gradient"):
        estimate("rank")
    with pytest.raises(MetricError, match="no gradient with respect to the logits"):
        estimate(lambda logits: logits[:, -1].argmax(-1).float())
    with pytest.raises(CircuitError, match="MLP 1 of this graph has latents"):
        estimate(of=build_graph(model, latents={1: [2]}))
    with pytest.raises(CircuitError, match=r"interp\.build_graph"):
        estimate(of=build_graph(specimen("attention_only").model))
    assert model.active_edits == []
