"""EAP beside every reader's own probe on the naive transformer, and what its scores add up to."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attribution_cases import ABLATIONS, DIRECTIONS, LAYOUTS, METRICS, assert_near
from edge_cases import (
    GRAPHS,
    WITH_BLOCKS,
    EdgeCase,
    assert_errors,
    assert_estimates,
    edge_cases,
    fixed_edge_case,
    mass_everywhere,
)
from hypothesis import HealthCheck, given, settings
from model_zoo import NAMES, Specimen, make_bare, specimen
from naive_edge_gradients import NaiveEdges, node_sums, site_effects
from naive_transformer import NaiveTransformer
from random_tasks import random_task
from torch import Tensor

import interp
from interp.circuits.graph import build_graph


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "gated"])
def test_the_reference_is_a_slope(name: str) -> None:
    """Each probe moved a little both ways along a writer's change."""
    task = random_task([5, 6], "left", [0, 1], seed=1)
    graph = build_graph(specimen(name).model, task, positions=["S"], neurons={0: [3, 7]})
    naive = NaiveEdges.of(specimen(name), task, graph, metric="kl", direction="denoise")
    effects = naive.effects()
    for edge in np.random.default_rng(0).choice(graph.n_edges, 40, replace=False):
        reader = graph.readers[graph.edge_reader[edge]]
        change = naive.change_of(graph.writers[graph.edge_writer[edge]], naive.runs.base)
        change = change * naive._places[..., graph.edge_position[edge]][..., None]
        rise = [naive.run({reader: step * change}).detach() for step in (1e-5, -1e-5)]
        slope = (rise[0] - rise[1]) / 2e-5
        torch.testing.assert_close(effects[edge], slope, atol=1e-8, rtol=1e-6, msg=graph.edge_name(edge))


def test_the_fixed_cases_are_of_every_kind() -> None:
    fixed = [fixed_edge_case(name, layout) for name in NAMES for layout in range(len(LAYOUTS))]
    assert {(case.ablation, case.direction) for case in fixed} == {
        (a, d) for a in ABLATIONS for d in DIRECTIONS
    }
    assert {case.metric for case in fixed} == set(METRICS)
    assert {case.graph_kind for case in fixed} == set(GRAPHS)


def check_first_order(case: EdgeCase) -> None:
    found, expected = case.estimate("eap"), case.naive.effects()
    assert_estimates(found.effects, expected, case)
    assert_errors(found.standard_errors, expected, case)
    assert found.magnitude is None and found.gaps == {}
    base = found.corrupted if case.direction == "denoise" else found.clean
    assert_near(base, case.naive.runs.base_score, (case, "base"), 1.0)


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str, layout: int) -> None:
    check_first_order(fixed_edge_case(name, layout))


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(edge_cases())
def test_any_graph_and_task(case: EdgeCase) -> None:
    check_first_order(case)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_hooks_and_block_functions_agree(name: str) -> None:
    case = replace(fixed_edge_case(name, 1), ablation="source")
    blocks = case.estimate("eap")
    with case.only_hooks():
        hooks = case.estimate("eap")
    size = max(float(blocks.effects.abs().max()), 0.2)
    torch.testing.assert_close(hooks.effects, blocks.effects, atol=2e-5 * size, rtol=0)
    torch.testing.assert_close(hooks.standard_errors, blocks.standard_errors, atol=2e-5 * size, rtol=0)
    torch.testing.assert_close((hooks.clean, hooks.corrupted), (blocks.clean, blocks.corrupted))


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "gated", "no_norm"])
def test_in_double_precision(name: str, hooks: bool) -> None:
    bare = make_bare(name).double()
    model = interp.load_model(bare)
    on = Specimen(name, model, bare, NaiveTransformer(model))
    case = replace(fixed_edge_case(name, 1, "neurons at S"), on=on, ablation="source")
    if hooks:
        with case.only_hooks():
            found = case.estimate("eap")
    else:
        found = case.estimate("eap")
    expected = case.naive.effects()
    assert found.effects.dtype == torch.float64
    torch.testing.assert_close(found.effects, expected.mean(1), atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(found.standard_errors, expected.std(1) / 3**0.5, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_the_sum_of_its_edges(name: str, layout: int) -> None:
    for ablation in ("source", "mean") if layout else ("source", "zero", "resample"):
        case = replace(fixed_edge_case(name, layout, ""), ablation=ablation)
        sums = node_sums(case.graph, case.estimate("eap").effects)
        nodes = site_effects(case.model, case.task, "attribution", case.metric, **case.options)
        assert_near(sums, nodes, (case, "node"))


@pytest.mark.parametrize("kind", ["pos", "S", "neurons"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "hooked"])
def test_finer_graphs_add_up_to_the_coarse_one(name: str, kind: str) -> None:
    """Positions to their edge, neurons and their rest to the MLP."""
    fine = replace(fixed_edge_case(name, 0, kind), ablation="source")
    coarse = replace(fine, graph_kind="")
    found, expected = fine.estimate("eap").effects, coarse.estimate("eap").effects
    graph, whole = fine.graph, coarse.graph
    if kind != "neurons":
        summed = found.view(-1, graph.n_positions).sum(1)
        torch.testing.assert_close(summed, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
        return
    # what leaves an MLP is linear in its neurons but for a norm that comes after
    total = torch.zeros_like(expected)
    for edge in range(graph.n_edges):
        names = [graph.nodes[graph.edge_writer[edge]], graph.reader_names[graph.edge_reader[edge]]]
        writer, reader = (text.split(".n")[0] for text in names)
        total[whole.find_edge(f"{writer}->{reader}")] += found[edge]
    if fine.model.traits.post_norms:
        leaving = torch.tensor([whole.nodes[i].startswith("m") for i in whole.edge_writer])
        total, expected = total[~leaving], expected[~leaving]
    torch.testing.assert_close(total, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def spread(logits: Tensor) -> Tensor:
    """One number for the whole batch, in which prompts do not add up."""
    return logits[:, -1, :5].softmax(0).pow(2).sum() + logits[:, -1, 7].prod()


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "hooked"])
@pytest.mark.parametrize("metric", [mass_everywhere, spread])
def test_a_function_of_the_logits(name: str, metric: Any) -> None:
    case = replace(fixed_edge_case(name, 0), metric=metric, first_difference=(2, 2, 3), ablation="source")
    # of one number for all prompts, only the mean has a meaning: all of them move together
    assert_estimates(case.estimate("eap", memory_budget=1 << 16).effects, case.naive.effects(), case)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gated"])
def test_padding_is_not_replaced(name: str) -> None:
    """Not even where a metric reads it."""
    for layout in (1, 2):
        case = replace(fixed_edge_case(name, layout, ""), metric=mass_everywhere, ablation="mean")
        assert_estimates(case.estimate("eap").effects, case.naive.effects(), case)


def test_other_reference_prompts_and_other_partners() -> None:
    on, others = specimen("llama"), random_task([7, 5], "right", [0, 0], seed=8)
    case = EdgeCase(on, (4, 6, 5), "left", (0, 1, 2), 7, "mean", "denoise", "logit_diff")
    for ablation in ("mean", "mean-per-position"):
        case = replace(case, ablation=ablation)
        naive = replace(case.naive, runs=replace(case.naive.runs, reference=others))
        assert_estimates(case.estimate("eap", reference=others).effects, naive.effects(), ablation)
    case = replace(case, lengths=(5,) * 4, first_difference=(0,) * 4, ablation="resample")
    seen = []
    for seed in (0, 3):
        naive = replace(case.naive, runs=replace(case.naive.runs, seed=seed))
        seen.append(case.estimate("eap", seed=seed).effects)
        assert_estimates(seen[-1], naive.effects(), seed)
    assert not torch.equal(*seen)


def test_what_a_user_has_set_stays_as_it_was() -> None:
    model = interp.load_model(copy.deepcopy(make_bare("llama")))
    for i, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(i % 3 == 0)
    before = [p.requires_grad for p in model.module.parameters()]
    weights = [p.clone() for p in model.module.parameters()]
    on = Specimen("llama", model, None, specimen("llama").naive)
    case = replace(fixed_edge_case("llama", 0, "neurons"), on=on)
    graph = case.graph
    again = copy.deepcopy(graph)
    for method in ("eap", "eap-ig", "eap-ig:activations", "eap-ig:clean-corrupted", "relevance", "atp*"):
        with torch.no_grad():
            inside = case.estimate(method)
        outside = case.estimate(method)
        assert torch.equal(inside.effects, outside.effects), method
        assert torch.is_grad_enabled() and model.active_edits == [] and model.edit_handles == {}
        assert not any(point._forward_hooks for point in model.hook_points.values())
        assert [p.requires_grad for p in model.module.parameters()] == before and len(set(before)) == 2
        assert all(parameter.grad is None for parameter in model.module.parameters())
        assert all(map(torch.equal, weights, model.module.parameters()))
    assert graph == again
