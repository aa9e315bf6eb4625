"""Scores of edges by the kernel are those by plain matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from edge_cases import fixed_edge_case

from interp.circuits.gradients import EDGE_METHODS, EdgeEstimates, totals
from interp.kernels import use_kernels

pytestmark = pytest.mark.triton

METHODS = [name for name in EDGE_METHODS if name != "exact"]


@contextmanager
def only_edges_as_kernel() -> Iterator[list[tuple[int, bool]]]:
    """The model runs as it does anyhow; gives readers of each launch, and whether their reach differed."""
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "graph_kind"), [("gpt2", "neurons"), ("llama", "S"), ("gemma2", "")])
def test_every_method(method: str, name: str, graph_kind: str) -> None:
    case = fixed_edge_case(name, 1, graph_kind)
    expected = case.estimate(method)
    with only_edges_as_kernel() as launched:
        found = case.estimate(method)
    assert launched
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["gpt_neox", "hooked"])
def test_parallel_blocks_and_hooks(name: str) -> None:
    case = fixed_edge_case(name, 0, "pos")
    expected = case.estimate("eap")
    with only_edges_as_kernel():
        found = case.estimate("eap")
    assert_same(found, expected)


@pytest.mark.parametrize("budget", [1 << 11, 1 << 13, 1 << 20])
def test_readers_share_launches_within_the_budget(budget: int) -> None:
    """Readers of several layers in one, or some of a layer's."""
    case = fixed_edge_case("llama", 0, "")
    expected, n_heads = case.estimate("eap"), case.model.traits.n_heads
    with only_edges_as_kernel() as launched:
        found = case.estimate("eap", memory_budget=budget)
    assert_same(found, expected)
    most = max(n for n, _ in launched)
    if budget == 1 << 20:
        assert most > 2 * n_heads and any(differs for _, differs in launched)
    elif budget == 1 << 11:
        assert most < n_heads


def test_the_whole_engine_as_kernels() -> None:
    case = fixed_edge_case("gpt2", 1, "S")
    expected = case.estimate("eap")
    with use_kernels("triton"):
        found = case.estimate("eap")
    assert_same(found, expected)
