"""Sorted samples: the coupling, the distance and its gradient, and maps that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_transport import naive_distance
from torch import Tensor

from interp.errors import SteeringError
from interp.steering.learn.transport import (
    couple_sorted,
    fit_gaussian,
    fit_scale,
    fit_sorted_line,
    sorted_distance,
)

sizes = st.integers(1, 12)


def rows(seed: int, n: int, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes, sizes)
@settings(max_examples=40, deadline=None)
def test_a_coupling_gives_every_sample_its_share_and_never_crosses(n: int, m: int) -> None:
    i, j, share = couple_sorted(n, m)
    assert torch.allclose(torch.zeros(n).double().index_add_(0, i, share), torch.full((n,), 1 / n).double())
    assert torch.allclose(torch.zeros(m).double().index_add_(0, j, share), torch.full((m,), 1 / m).double())
    assert bool((i.diff() >= 0).all() and (j.diff() >= 0).all() and (share > 0).all())


@given(sizes, sizes, st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_distance_is_that_of_repeated_sorted_samples(n: int, m: int, seed: int) -> None:
    x, y = rows(seed, n), 2 * rows(seed + 9, m) + 1
    found = sorted_distance(x, y)
    torch.testing.assert_close(found, naive_distance(x, y))
    torch.testing.assert_close(found, sorted_distance(y, x))
    shuffled = x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(found, sorted_distance(shuffled, y))


def test_the_distance_of_a_shift_is_its_square_and_of_the_same_sample_0() -> None:
    x = rows(0, 7)
    torch.testing.assert_close(sorted_distance(x, x + 3), torch.full((3,), 9.0).double())
    assert not bool(sorted_distance(x, torch.cat([x, x]).flip(0)).any())


def test_no_other_pairing_is_cheaper() -> None:
    x, y = rows(1, 6, 1), rows(2, 6, 1)
    best = float(sorted_distance(x, y))
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert float((x - y[torch.randperm(6, generator=draw)]).pow(2).mean()) >= best - 1e-12


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3), (3, 7)])
def test_gradients_of_the_distance_in_both_samples(n: int, m: int) -> None:
    x, y = rows(3, n, 2).requires_grad_(), rows(4, m, 2).requires_grad_()
    assert torch.autograd.gradcheck(sorted_distance, (x, y))


@pytest.mark.parametrize("m", [9, 5])
def test_a_line_is_the_least_squares_line_of_sorted_samples(m: int) -> None:
    x, y = rows(5, 9), 3 * rows(6, m) - 2
    found = fit_sorted_line(x, y)
    size = 9 * m
    for neuron in range(3):
        ordered = [np.sort(np.repeat(v[:, neuron].numpy(), size // len(v))) for v in (x, y)]
        slope, intercept = np.polyfit(*ordered, 1)
        assert float(found.weight[neuron]) == pytest.approx(slope)
        assert float(found.bias[neuron]) == pytest.approx(intercept)


def test_a_line_between_samples_of_one_shape_is_exact() -> None:
    x = rows(7, 8)
    w, b = torch.tensor([0.5, 2.0, 1.0]).double(), torch.tensor([1.0, -1.0, 0.0]).double()
    for fit in (fit_sorted_line, fit_scale):
        found = fit(x, (w * x + b).flip(0))
        torch.testing.assert_close(found.weight, w)
        torch.testing.assert_close(found.bias, b)


@pytest.mark.parametrize("fit", [fit_sorted_line, fit_scale])
def test_a_neuron_that_does_not_vary_is_moved_only(fit) -> None:
    x, y = rows(8, 6), rows(9, 5)
    x[:, 1] = 4.0
    found = fit(x, y)
    assert float(found.weight[1]) == 1
    assert float(found.bias[1]) == pytest.approx(float(y[:, 1].mean()) - 4)


def test_a_scale_gives_the_targets_mean_and_spread() -> None:
    x, y = rows(10, 9), 3 * rows(11, 6) + 1
    moved = fit_scale(x, y).change(x, 1.0)
    torch.testing.assert_close(moved.mean(0), y.mean(0))
    torch.testing.assert_close(moved.std(0, correction=0), y.std(0, correction=0))


@pytest.mark.parametrize("shrinkage", [0.01, 0.5])
@pytest.mark.parametrize("n", [40, 3])
def test_a_gaussian_map_carries_one_shrunk_covariance_to_the_other(shrinkage: float, n: int) -> None:
    mix = rows(12, 5, 5)
    x, y = rows(13, n, 5) @ mix + 2, rows(14, n + 1, 5)
    found = fit_gaussian(x, y, shrinkage)
    covariances = [np.cov(v.numpy().T, bias=True) for v in (x, y)]
    level = sum(np.trace(c) for c in covariances) / 10
    s, t = ((1 - shrinkage) * c + shrinkage * level * np.eye(5) for c in covariances)
    a = found.weight.numpy()
    np.testing.assert_allclose(a @ s @ a.T, t, atol=1e-8)
    # optimal maps are gradients of convex functions: symmetric, positive
    np.testing.assert_allclose(a, a.T, atol=1e-8)
    assert np.linalg.eigvalsh(a).min() > 0
    torch.testing.assert_close(found.change(x, 1.0).mean(0), y.mean(0))


def test_all_shrinkage_leaves_the_mean_difference() -> None:
    x, y = rows(15, 4, 6), rows(16, 4, 6)
    found = fit_gaussian(x, y, 1.0)
    torch.testing.assert_close(found.weight, torch.eye(6).double())
    torch.testing.assert_close(found.bias, y.mean(0) - x.mean(0))


@pytest.mark.parametrize("shrinkage", [0.0, -0.1, 1.1])
def test_a_shrinkage_that_cannot_be_is_refused(shrinkage: float) -> None:
    with pytest.raises(SteeringError, match="shrinkage lies in"):
        fit_gaussian(rows(0, 3), rows(1, 3), shrinkage)


def test_activations_that_do_not_vary_are_refused() -> None:
    with pytest.raises(SteeringError, match="do not vary"):
        fit_gaussian(torch.ones(3, 2), torch.zeros(4, 2), 0.5)
