"""Proximal steps: the minimisers that they are said to be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.learn.sparsity import GROUPS, Group, kept_neurons, shrink


def penalty(x: Tensor, thresholds: Tensor, group: Group) -> float:
    if group == "number":
        return float((thresholds * x.abs()).sum())
    columns = [x[:, j] for j in range(x.shape[1])] if group == "neuron" else [x.flatten()]
    limits = (
        [thresholds[:, j].mean() for j in range(x.shape[1])] if group == "neuron" else [thresholds.mean()]
    )
    return sum(
        float(limit * len(column) ** 0.5 * column.norm())
        for limit, column in zip(limits, columns, strict=True)
    )


@pytest.mark.parametrize("group", GROUPS)
@given(seed=st.integers(0, 50), scale=st.sampled_from([0.1, 0.5, 2.0]))
@settings(max_examples=25, deadline=None)
def test_nothing_near_has_a_smaller_distance_plus_penalty(group: Group, seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    offsets = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    thresholds = scale * torch.rand(2, 5, generator=draw, dtype=torch.float64)
    found = shrink(offsets, thresholds, group)

    def cost(x: Tensor) -> float:
        return 0.5 * float((x - offsets).pow(2).sum()) + penalty(x, thresholds, group)

    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            other = found + size * torch.randn(2, 5, generator=draw, dtype=torch.float64)
            assert cost(found) <= cost(other) + 1e-12
    assert cost(found) <= cost(torch.zeros_like(found)) + 1e-12
    assert cost(found) <= cost(offsets) + 1e-12


def test_by_hand() -> None:
    offsets = torch.tensor([[0.5, -0.2, 3.0], [0.0, 0.1, 4.0]])
    thresholds = torch.full((2, 3), 0.3)
    torch.testing.assert_close(shrink(offsets, thresholds), torch.tensor([[0.2, 0.0, 2.7], [0.0, 0.0, 3.7]]))
    found = shrink(offsets, thresholds, "neuron")
    limit = 0.3 * 2**0.5
    torch.testing.assert_close(found[:, 2], offsets[:, 2] * (1 - limit / 5))
    assert kept_neurons(found) == 2 and not bool(found[:, 1].any())
    assert not bool(shrink(offsets, torch.full((2, 3), 5.0), "site").any())
    assert kept_neurons(shrink(offsets, thresholds, "site")) == 3


def test_no_threshold_changes_nothing_and_all_of_it_leaves_nothing() -> None:
    offsets = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    for group in GROUPS:
        torch.testing.assert_close(shrink(offsets, torch.zeros(2, 4), group), offsets)
        assert not bool(shrink(offsets, torch.full((2, 4), 1e3), group).any())
        assert not bool(shrink(torch.zeros(2, 4), torch.ones(2, 4), group).any())


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(SteeringError, match="neuron"):
        shrink(torch.zeros(2, 2), torch.zeros(2, 2), "neurons")  # type: ignore[arg-type]
