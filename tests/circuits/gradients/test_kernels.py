"""Scores of edges by the kernel are those by plain matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from edge_cases import fixed_edge_case

from interp.circuits.gradients import (
    EdgeAttribution,
    EdgeAttributionStar,
    EdgeEstimates,
    EdgeIntegratedGradients,
    EdgeMethod,
    EdgeRelevance,
    totals,
)
from interp.kernels import use_kernels

pytestmark = pytest.mark.interpreter

CASES = [
    (EdgeAttribution(), "gpt_neox", "pos"),
    (EdgeIntegratedGradients(steps=2), "gpt2", ""),
    (EdgeIntegratedGradients(over="activations", steps=1), "gpt2", ""),
    (EdgeIntegratedGradients(over="clean-corrupted"), "gpt2", "neurons"),
    (EdgeRelevance(), "llama", "S"),
    (EdgeAttributionStar(), "gemma2", ""),
]


@contextmanager
def only_edges_as_kernel() -> Iterator[list[tuple[int, bool]]]:
    """The model runs as it does anyhow; gives readers of each launch, and whether their reach differed."""
    from interp.kernels.edge_scores import triton as kernel

    launched: list[tuple[int, bool]] = []
    runs, score = totals.pairs_run_as_kernel, totals.score_pairs

    def runs_as_kernel(*tensors: Any) -> bool:
        with use_kernels("triton"):
            return runs(*tensors)

    def score_as_kernel(changed: Any, gradient: Any, **options: Any) -> Any:
        launched.append((len(gradient), options["reach"] is not None))
        with use_kernels("triton"):
            return score(changed, gradient, **options)

    with pytest.MonkeyPatch.context() as patch:
        # the interpreter takes its time for every program
        patch.setattr(kernel, "PROGRAMS", 1)
        patch.setattr(totals, "pairs_run_as_kernel", runs_as_kernel)
        patch.setattr(totals, "score_pairs", score_as_kernel)
        yield launched


def assert_same(found: EdgeEstimates, expected: EdgeEstimates) -> None:
    for part in ("effects", "standard_errors", "magnitude"):
        one, other = getattr(found, part), getattr(expected, part)
        assert (one is None) == (other is None)
        if one is not None:
            spread = float(other.max() - other.min())
            torch.testing.assert_close(one, other, atol=1e-5 * spread, rtol=0, msg=part)


@pytest.mark.parametrize(
    ("method", "name", "graph_kind"), CASES, ids=lambda given: getattr(given, "label", given)
)
def test_every_method(method: EdgeMethod, name: str, graph_kind: str) -> None:
    case = fixed_edge_case(name, 0, graph_kind)
    expected = case.estimate(method)
    with only_edges_as_kernel() as launched:
        found = case.estimate(method)
    assert launched
    assert_same(found, expected)


@pytest.mark.parametrize(("budget", "n_launches"), [(1 << 16, 21), (1 << 20, 1)])
def test_readers_share_launches_within_the_budget(budget: int, n_launches: int) -> None:
    """All readers of three prompts in one launch, or those of some layers at a few columns."""
    case = fixed_edge_case("llama", 0, "")
    expected = case.estimate("eap")
    with only_edges_as_kernel() as launched:
        found = case.estimate("eap", memory_budget=budget)
    assert_same(found, expected)
    assert len(launched) == n_launches
    assert max(n for n, _ in launched) > 2 * case.model.traits.n_heads
    assert any(differs for _, differs in launched)
