"""Relevance at edges beside rules held by autograd on the naive transformer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attribution_cases import assert_near
from edge_cases import EdgeCase, assert_estimates, fixed_edge_case
from model_zoo import NAMES, specimen
from naive_edge_gradients import node_sums, site_effects
from naive_relevance import HELD, NaiveRelevance

from interp import UserRule
from interp.circuits.gradients import EdgeRelevance
from interp.errors import CircuitError
from interp.models.relevance import RelevanceRules


def under(case: EdgeCase, rules: str) -> EdgeCase:
    """The same beside a naive route with rules."""
    held = replace(case.on, naive=NaiveRelevance(case.model, HELD[rules]))
    return replace(case, on=held)


@pytest.mark.parametrize("rules", ["relp", "relp-ah", "attnlrp"])
@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str, rules: str) -> None:
    layout = sorted(HELD).index(rules) % 3
    case = replace(fixed_edge_case(name, layout), metric="logit_diff")
    found = case.estimate(EdgeRelevance(rules))
    assert_estimates(found.effects, under(case, rules).naive.effects(), (case, rules))


@pytest.mark.parametrize("rules", ["relp", "relp-ah", "attnlrp"])
@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_the_sum_of_its_edges(name: str, rules: str) -> None:
    method = EdgeRelevance(rules)
    for layout, ablation in ((0, "zero"), (1, "source"), (2, "mean")):
        case = replace(fixed_edge_case(name, layout, ""), ablation=ablation)
        sums = node_sums(case.graph, case.estimate(method).effects)
        assert_near(
            sums, site_effects(case.model, case.task, method.label, case.metric, **case.options), case
        )


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "hooked_grouped"])
def test_without_rules_it_is_eap(name: str) -> None:
    case = fixed_edge_case(name, 1)
    plain, ruled = case.estimate("eap"), case.estimate(EdgeRelevance("gradient"))
    size = max(float(plain.effects.abs().max()), 0.2)
    torch.testing.assert_close(ruled.effects, plain.effects, atol=2e-5 * size, rtol=0)


def test_without_the_pattern_nothing_goes_through_queries_and_keys() -> None:
    case = fixed_edge_case("llama", 0, "")
    found, graph = case.estimate("relevance:relp-ah"), case.graph
    through = torch.tensor([graph.readers[i].kind in ("q", "k") for i in graph.edge_reader])
    assert not bool(found.effects[through].any()) and bool((found.effects[~through] != 0).all())
    assert "the AH-rule gives queries, keys and scores none" in found.notes[0]


def test_a_rule_at_a_norm_that_edges_end_before() -> None:
    model = specimen("gpt2").model
    case = fixed_edge_case("gpt2", 0, "")

    def with_rule_at(where: str) -> EdgeRelevance:
        return EdgeRelevance(RelevanceRules(custom=(UserRule("mine", where, lambda x, y: 0.5 * x[0]),)))

    for where in ("blocks.*.ln1", "blocks.1.ln2", "*"):
        with pytest.raises(CircuitError, match=r"'mine' stands at blocks\.[01]\.ln[12]"):
            case.estimate(with_rule_at(where))
    for where in ("ln_final", "blocks.*.mlp.act"):
        assert bool(case.estimate(with_rule_at(where)).effects.any())
    assert model.active_edits == [] and model.rules_in_force == []
