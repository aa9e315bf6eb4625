"""p-values: exact where they can be counted out, calibrated where they are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.circuits.proof.statistics import correct, hsic, permute_hsic, rank_p_values, sign_p_value
from interp.errors import CircuitError


def binomial(n, p):
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def signs(ahead, n, ties=0):
    return np.array([1.0] * ahead + [0.0] * ties + [-1.0] * (n - ahead - ties))


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_sign_p_value_is_the_tail_that_can_be_counted_out(n, epsilon):
    law = binomial(n, 0.5 + epsilon)
    for ahead in range(n + 1):
        far = abs(ahead / n - 0.5)
        wanted = sum(law[k] for k in range(n + 1) if abs(k / n - 0.5) >= far - 1e-12)
        share, p = sign_p_value(signs(ahead, n), epsilon)
        assert share == pytest.approx(ahead / n)
        assert p == pytest.approx(min(1.0, wanted), abs=1e-12)


@pytest.mark.parametrize("n", [5, 16, 40])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("inside", [0.0, 0.5, 1.0, -1.0])
def test_sign_test_keeps_its_level_on_all_of_the_null_hypothesis(n, epsilon, inside):
    """Counted out, not drawn: the chance of p <= a is at most a for every a that p can take."""
    law = binomial(n, 0.5 + inside * epsilon)
    p_values = np.array([sign_p_value(signs(k, n), epsilon)[1] for k in range(n + 1)])
    for level in np.unique(p_values):
        assert sum(np.array(law)[p_values <= level]) <= level + 1e-9


def test_ties_count_half_and_never_reject():
    assert sign_p_value(np.zeros(20), 0.1) == (0.5, 1.0)
    assert sign_p_value(signs(10, 20, ties=10), 0.1)[0] == 0.75
    small = np.array([1e-7, -1e-7, 1e-7, 1e-7])
    assert sign_p_value(small, 0.0, tie=1e-6) == (0.5, 1.0)
    assert sign_p_value(small, 0.0)[0] == 0.75


@pytest.mark.parametrize("tied", [0.2, 0.8])
def test_sign_test_keeps_its_level_with_ties(tied):
    n, edge = 24, 0.6
    rng = np.random.default_rng(0)
    ahead = edge - tied / 2
    drawn = rng.choice([1.0, 0.0, -1.0], (1000, n), p=[ahead, tied, 1 - ahead - tied])
    p_values = np.array([sign_p_value(row, edge - 0.5)[1] for row in drawn])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level / 1000)


def test_sign_test_finds_a_circuit_that_is_always_behind():
    assert sign_p_value(-np.ones(32), 0.1)[1] < 1e-6


def naive_hsic(x, y):
    n = len(x)

    def kernel(values):
        pairs = [abs(a - b) for a in values for b in values if a != b]
        width = np.median(pairs)
        return np.array([[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in values] for a in values])

    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(kernel(x) @ h @ kernel(y) @ h) / (n - 1) ** 2


@given(st.integers(0, 1000), st.integers(4, 12))
def test_hsic_is_the_trace_of_the_paper(seed, n):
    x, y = np.random.default_rng(seed).normal(size=(2, n)) * [[1.0], [30.0]]
    assert hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-9)
    assert hsic(x, y) == pytest.approx(hsic(y, x))
    assert hsic(x, 5 * y + 3) == pytest.approx(hsic(x, y))


def test_permuted_hsic_is_that_of_permuted_samples():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 9))
    seen, permuted, p = permute_hsic(x, y, 50, np.random.default_rng(0))
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(9), (50, 1)), axis=1)
    assert permuted == pytest.approx([hsic(x, y[order]) for order in orders])
    assert p == pytest.approx((1 + sum(value >= seen for value in permuted)) / 51)


def test_independence_test_is_calibrated_and_finds_dependence_without_correlation():
    rng = np.random.default_rng(0)
    p_null, p_curve = [], []
    for _ in range(300):
        x, y = rng.normal(size=(2, 20))
        p_null.append(permute_hsic(x, y, 99, rng)[2])
        p_curve.append(permute_hsic(x, x**2 + 0.1 * y, 99, rng)[2])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        assert abs(np.mean(np.array(p_null) <= level) - level) <= 3 * math.sqrt(level * (1 - level) / 300)
    assert np.mean(np.array(p_curve) <= 0.05) > 0.9


def test_a_constant_sample_depends_on_nothing():
    x = np.random.default_rng(0).normal(size=10)
    seen, permuted, p = permute_hsic(x, np.ones(10), 20, np.random.default_rng(0))
    assert seen == pytest.approx(0, abs=1e-12)
    assert permuted == pytest.approx(np.zeros(20), abs=1e-12)
    assert p == 1


def test_rank_p_values_are_binomial_tails():
    reference = np.arange(10.0)
    observed = np.array([-1.0, 4.5, 9.0, 20.0])
    law = np.cumsum(binomial(10, 0.9))
    less = rank_p_values(observed, reference, 0.9, "less")
    assert less == pytest.approx([law[0], law[5], law[9], law[10]])
    greater = rank_p_values(observed, reference, 0.9, "greater")
    assert greater == pytest.approx([1.0, 1 - law[4], 1 - law[8], 1 - law[9]])


@pytest.mark.parametrize("against", ["less", "greater"])
def test_rank_test_keeps_its_level_at_the_edge_of_the_null_hypothesis(against):
    """An effect at the quantile of what random edges do: larger than one of them with just that chance."""
    rng = np.random.default_rng(0)
    drawn = rng.exponential(size=(1000, 60))
    quantile = 0.9
    edge = np.array([-math.log(1 - quantile)])
    p_values = np.array([rank_p_values(edge, row, quantile, against)[0] for row in drawn])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level / 1000)
    assert (p_values <= 0.2).mean() > 0.05


def naive_holm(p_values):
    n = len(p_values)
    found = []
    for p in p_values:
        smaller = sorted(other for other in p_values if other <= p)
        found.append(min(1.0, max((n - i) * other for i, other in enumerate(smaller))))
    return found


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True))
def test_corrections(p_values):
    array = np.array(p_values)
    holm, bonferroni = correct(array, "holm"), correct(array, "bonferroni")
    assert holm == pytest.approx(naive_holm(p_values))
    assert bonferroni == pytest.approx(np.minimum(1, array * len(array)))
    assert (array <= holm).all()
    assert (holm <= bonferroni + 1e-12).all()
    assert correct(array, "none") is array


def test_correction_keeps_the_level_for_all_together():
    rng = np.random.default_rng(1)
    drawn = rng.random((2000, 15))
    false = np.mean([correct(row, "holm").min() <= 0.05 for row in drawn])
    assert 0.02 < false <= 0.05 + 3 * math.sqrt(0.05 / 2000)
    assert np.mean(drawn.min(1) <= 0.05) > 0.4


def test_unknown_corrections_are_refused():
    with pytest.raises(CircuitError, match="did you mean 'holm'"):
        correct(np.ones(2), "holms")
