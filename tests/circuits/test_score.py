"""The one call for scores of edges: what it says, how it checks itself and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.circuits import score
from interp.circuits.gradients import EDGE_METHODS
from interp.errors import CircuitError, MetricError, PatchError
from interp.results import EdgeScores


@pytest.fixture(scope="module")
def setting() -> tuple[Any, Any]:
    return specimen("gpt2").model, random_task([5, 5, 5], "right", [1, 2, 0], seed=1)


@pytest.mark.parametrize("method", EDGE_METHODS)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_every_method_by_name(setting: tuple[Any, Any], method: str, direction: str) -> None:
    model, task = setting
    found = interp.score_edges(model, task, method=method, direction=direction, progress=False)
    made = found.provenance
    assert (made.method, made.direction, made.task, made.n_prompts) == (method, direction, task.name, 3)
    assert found.direction == direction and not bool(found.effects.isnan().any())
    gap = found.clean - found.corrupted
    torch.testing.assert_close(found.values, found.effects / (gap if direction == "denoise" else -gap))
    assert float(found.raw[0]) == pytest.approx(found.base + float(found.effects[0]))
    assert found.standard_errors is not None and bool((found.standard_errors >= 0).all())


def test_standard_errors_are_those_of_the_prompts(setting: tuple[Any, Any]) -> None:
    model, task = setting
    every = interp.score_edges(model, task, method="exact", progress=False)
    each = torch.stack(
        [
            interp.score_edges(model, task.select([row]), method="exact", progress=False).effects
            for row in range(3)
        ]
    ).double()
    torch.testing.assert_close(every.effects.double(), each.mean(0), atol=1e-6, rtol=1e-4)
    assert every.standard_errors is not None
    torch.testing.assert_close(every.standard_errors.double(), each.std(0) / 3**0.5, atol=1e-6, rtol=1e-3)
    alone = interp.score_edges(model, task.select([0]), method="exact", progress=False)
    assert alone.standard_errors is not None and bool(alone.standard_errors.isnan().all())


def test_estimates_check_themselves(setting: tuple[Any, Any], tmp_path: Any) -> None:
    model, task = setting
    exact = interp.score_edges(model, task, method="exact", direction="denoise", progress=False)
    found = interp.score_edges(model, task, method="eap", direction="denoise", progress=False)
    check = found.verify(top=5, sample=7, progress=False)
    assert check.chosen_as == ("top",) * 5 + ("random",) * 7
    numbers = [found.graph.find_edge(name) for name in check.names]
    torch.testing.assert_close(check.exact, exact.values[numbers], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(check.approximate, found.values[numbers])
    assert [row.edge for row in found.top(5)] == numbers[:5]
    every = found.verify(top=None, progress=False)
    assert len(every.names) == found.graph.n_edges
    assert every.pearson.value == pytest.approx(
        float(torch.corrcoef(torch.stack([found.values, exact.values]))[0, 1]), abs=1e-3
    )
    loaded = EdgeScores.load(found.save(tmp_path / "scores.safetensors"))
    with pytest.raises(CircuitError, match="loaded from a file"):
        loaded.verify()
    again = interp.verify_edges(model, task, loaded, top=5, sample=7, progress=False)
    assert torch.equal(again.exact, check.exact)


def test_checks_that_mean_nothing_are_refused(setting: tuple[Any, Any]) -> None:
    model, task = setting
    exact = interp.score_edges(model, task, method="exact", progress=False)
    found = interp.score_edges(model, task, progress=False)
    with pytest.raises(CircuitError, match="exact"):
        exact.verify()
    with pytest.raises(CircuitError, match="exact"):
        interp.verify_edges(model, task, exact)
    with pytest.raises(CircuitError, match="at least one edge"):
        found.verify(top=0, sample=0)
    with pytest.raises(CircuitError, match="same model, prompts and metric"):
        interp.verify_edges(model, random_task([5, 5], "right", [1, 2], seed=2), found, progress=False)
    with pytest.raises(CircuitError, match="build it with"):
        interp.verify_edges(specimen("llama").model, task, found, progress=False)


def test_a_stopped_search_goes_on(
    setting: tuple[Any, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = setting
    monkeypatch.setattr(score, "_RUNS_A_PART", 60)
    usual = interp.score_edges(model, task, method="exact", checkpoint=tmp_path / "usual", progress=False)
    patch, calls = score.patch_edges, []

    def stops(*args: Any, **options: Any) -> Any:
        calls.append(len(args[3]))
        if len(calls) in (2, 3, 6):
            raise KeyboardInterrupt
        return patch(*args, **options)

    monkeypatch.setattr(score, "patch_edges", stops)
    folder = tmp_path / "stopped"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            interp.score_edges(model, task, method="exact", checkpoint=folder, progress=False)
    found = interp.score_edges(model, task, method="exact", checkpoint=folder, progress=False)
    assert torch.equal(found.effects, usual.effects)
    assert sum(calls) == usual.graph.n_edges + 3 * 20
    whole = interp.score_edges(model, task, method="exact", checkpoint=folder, progress=False)
    assert torch.equal(whole.effects, usual.effects)
    for made in (found.provenance, whole.provenance):
        assert replace(made, seconds=None) == replace(usual.provenance, seconds=None)
    with pytest.raises(CircuitError, match="it differs in direction"):
        interp.score_edges(
            model, task, method="exact", direction="denoise", checkpoint=folder, progress=False
        )
    with pytest.raises(CircuitError, match="checkpoint keeps exact scores"):
        interp.score_edges(model, task, checkpoint=folder, progress=False)


def test_scoring_leaves_graph_and_model_untouched(setting: tuple[Any, Any]) -> None:
    model, task = setting
    graph = interp.build_graph(model)
    before = model(task.clean).detach()
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    first = interp.score_edges(model, task, graph, method="exact", progress=False)
    for method in EDGE_METHODS:
        interp.score_edges(model, task, graph, method=method, progress=False)
    again = interp.score_edges(model, task, graph, method="exact", progress=False)
    assert torch.equal(first.effects, again.effects)
    assert graph == interp.build_graph(model)
    assert torch.equal(model(task.clean).detach(), before)
    assert flags == [parameter.requires_grad for parameter in model.module.parameters()]
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert model.active_edits == []


def test_options_that_do_not_fit(setting: tuple[Any, Any]) -> None:
    model, task = setting
    with pytest.raises(CircuitError, match="did you mean 'eap-ig'"):
        interp.score_edges(model, task, method="eapig")
    with pytest.raises(PatchError, match="direction"):
        interp.score_edges(model, task, direction="up")  # type: ignore[arg-type]
    with pytest.raises(MetricError):
        interp.score_edges(model, task, metric="accuracy")
    with pytest.raises(CircuitError, match="ACDC chooses by tau alone"):
        interp.find_circuit(model, task, method="acdc", edges=0.1)
    with pytest.raises(CircuitError, match="tau belongs to"):
        interp.find_circuit(model, task, tau=0.1)


def test_find_circuit_is_score_and_choose(setting: tuple[Any, Any]) -> None:
    model, task = setting
    scores = interp.score_edges(model, task, method="eap-ig", progress=False)
    found = interp.find_circuit(model, task, edges=0.2, how="greedy", progress=False)
    expected = interp.choose_circuit(scores, 0.2, how="greedy")
    assert torch.equal(found.included, expected.included)
    by_tau = interp.find_circuit(model, task, method="acdc", tau=0.05, progress=False)
    assert torch.equal(
        by_tau.included, interp.search_acdc(model, task, taus=0.05, progress=False)[0].included
    )
