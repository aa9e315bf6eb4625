"""EAP-IG beside a loop over the points of each path, and the completeness that it reports of itself."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from edge_cases import EdgeCase, assert_errors, assert_estimates, edge_cases, fixed_edge_case, mass_everywhere
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import NAMES
from naive_attribution import Place
from naive_edge_gradients import NaiveEdges
from torch import Tensor

from interp.circuits.gradients import EdgeIntegratedGradients

INPUT: Place = ("resid_pre", 0)
GAP = {"rel": 2e-3, "abs": 3e-5}


def along_inputs(naive: NaiveEdges, method: EdgeIntegratedGradients) -> tuple[Tensor, dict[str, float]]:
    """Effects [edge, prompt], and the gap of the edges out of the input."""
    effects, moved = naive.along(INPUT, method.points(), range(len(naive.graph.writers)))
    leaving = torch.from_numpy(naive.graph.edge_writer) == 0
    return effects, {"input": float((effects[leaving].sum(0) - moved).mean())}


def along_activations(naive: NaiveEdges, method: EdgeIntegratedGradients) -> tuple[Tensor, dict[str, float]]:
    total, gaps = torch.zeros(naive.graph.n_edges, len(naive.runs.task)).double(), {}
    for place, writers in naive.cuts().items():
        effects, moved = naive.along(place, method.points(), writers)
        total += effects
        name = "input" if place == INPUT else f"{place[0]}[{place[1]}]"
        gaps[name] = float((effects.sum(0) - moved).mean())
    return total, gaps


def check(case: EdgeCase, method: EdgeIntegratedGradients) -> None:
    naive, found = case.naive, case.estimate(method)
    if method.over == "clean-corrupted":
        expected, gaps = (naive.effects() + naive.effects(of_source=True)) / 2, {}
    else:
        expected, gaps = (along_inputs if method.over == "inputs" else along_activations)(naive, method)
    assert_estimates(found.effects, expected, (case, method))
    assert_errors(found.standard_errors, expected, (case, method))
    assert found.gaps == {name: pytest.approx(gap, **GAP) for name, gap in gaps.items()}


@pytest.mark.parametrize("over", ["inputs", "activations", "clean-corrupted"])
@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str, over: Any) -> None:
    check(fixed_edge_case(name, NAMES.index(name) % 3), EdgeIntegratedGradients(over, 2))


@pytest.mark.parametrize("over", ["inputs", "activations", "clean-corrupted"])
@pytest.mark.parametrize("name", ["gpt2", "hooked"])
def test_a_metric_that_reads_before_the_first_difference(name: str, over: Any) -> None:
    case = replace(fixed_edge_case(name, 0), metric=mass_everywhere, ablation="source")
    check(replace(case, first_difference=(2, 3, 2)), EdgeIntegratedGradients(over, 2))


METHODS = st.builds(
    EdgeIntegratedGradients,
    st.sampled_from(("inputs", "activations", "clean-corrupted")),
    st.integers(1, 2),
    st.sampled_from(("midpoint", "gauss-legendre")),
)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(edge_cases(), METHODS)
def test_any_graph_and_task(case: EdgeCase, method: EdgeIntegratedGradients) -> None:
    check(case, method)


@pytest.mark.parametrize("over", ["inputs", "activations", "clean-corrupted"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "attention_only"])
def test_hooks_and_block_functions_agree(name: str, over: Any) -> None:
    method = EdgeIntegratedGradients(over, 2)
    case = replace(fixed_edge_case(name, 1, "neurons at S"), ablation="source")
    blocks = case.estimate(method)
    with case.only_hooks():
        hooks = case.estimate(method)
    size = max(float(blocks.effects.abs().max()), 0.2)
    torch.testing.assert_close(hooks.effects, blocks.effects, atol=2e-5 * size, rtol=0)
    assert hooks.gaps == {name: pytest.approx(gap, abs=2e-5 * size) for name, gap in blocks.gaps.items()}


@pytest.mark.parametrize(
    ("name", "over"),
    [("gpt2", "inputs"), ("llama", "activations"), ("gemma2", "activations"), ("hooked", "inputs")],
)
def test_more_steps_leave_smaller_gaps(name: str, over: Any) -> None:
    """Whatever is replaced moves the metric by what its out-edges add up to; the input by all of the gap."""
    case = replace(fixed_edge_case(name, 0, ""), ablation="source", metric="logit_diff", direction="noise")
    leaving = torch.from_numpy(case.graph.edge_writer) == 0
    widest = []
    for steps in (1, 4, 16):
        found = case.estimate(EdgeIntegratedGradients(over, steps))
        assert len(found.gaps) == (1 if over == "inputs" else 1 + 2 * case.model.traits.n_layers)
        widest.append(max(map(abs, found.gaps.values())))
        moved = float((found.corrupted - found.clean).mean())
        assert float(found.effects[leaving].sum()) - moved == pytest.approx(found.gaps["input"], abs=1e-4)
    assert widest[1] < 0.5 * widest[0] and widest[2] < 0.1 * widest[0]


NOTE = re.compile(
    r"completeness: the edges out of (?P<cut>.+) add up to (?P<sum>\S+) and the metric moves by (?P<true>\S+), a gap "
    r"of (?P<gap>[^,\s]+)(?:, the widest of (?P<of>\d+))? \((?P<steps>\d+) (?P<rule>\S+) steps?\)"
)


def test_the_note_names_the_widest_gap() -> None:
    case = replace(fixed_edge_case("gpt2", 0, "neurons"), ablation="source")
    for method, of in (
        (EdgeIntegratedGradients("activations", 1, "midpoint"), "5"),
        (EdgeIntegratedGradients(), None),
    ):
        found = case.estimate(method)
        match = NOTE.fullmatch(found.notes[-1])
        assert match is not None, found.notes
        assert match["of"] == of and (match["steps"], match["rule"]) == (str(method.steps), method.quadrature)
        widest = max(found.gaps, key=lambda name: abs(found.gaps[name]))
        assert match["cut"] == widest
        assert float(match["gap"]) == pytest.approx(found.gaps[widest], rel=0.06)
        assert float(match["sum"]) - float(match["true"]) == pytest.approx(
            found.gaps[widest], rel=0.02, abs=1e-3
        )
