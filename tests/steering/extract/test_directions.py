"""Directions from rows: against plain versions, under changes that must not matter, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.coders.probing.logistic import fit_probe
from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows
from interp.steering.extract.directions import DIRECTIONS, find_direction
from interp.steering.extract.probes import shrink

SHAPES = [(2, 5), (3, 7), (7, 7), (40, 6), (64, 33)]
NEEDS_SPREAD = ("centred-pca", "lat", "logistic", "lda")


def make_rows(n: int, d: int, seed: int = 0, m: int | None = None, paired: bool = True) -> ContrastRows:
    """Sides that share content in pairs and lie apart."""
    draw = torch.Generator().manual_seed(seed)
    content = torch.randn(n, d, generator=draw)
    apart = torch.randn(d, generator=draw)
    positive = content + 0.5 * torch.randn(n, d, generator=draw) + apart
    if m is not None:
        return ContrastRows(positive, torch.randn(m, d, generator=draw), False)
    return ContrastRows(positive, content + 0.5 * torch.randn(n, d, generator=draw), paired)


def agree(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, at_least: float = 1 - 1e-5) -> None:
    """Same direction, sign included."""
    a, b = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= at_least


def top_right_vector(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, full_matrices=False)[2][0]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_components_equal_a_plain_decomposition(n, d):
    rows = make_rows(n, d)
    differences = (rows.positive - rows.negative).double().numpy()
    mean = rows.mean_difference.double().numpy()
    for method, x in (("pca", differences), ("centred-pca", differences - differences.mean(0))):
        wanted = top_right_vector(x)
        agree(find_direction(rows, method), wanted * np.sign(wanted @ mean))


@pytest.mark.parametrize(("n", "d"), SHAPES[1:])
def test_lat_equals_the_paper_written_out(n, d):
    rows = make_rows(n, d)
    found = find_direction(rows, "lat", seed=3)
    # the order is that of a generator seeded one further
    order = torch.rand(n, generator=torch.Generator().manual_seed(4)) < 0.5
    pairs = []
    for i in range(n):
        one, other = rows.positive[i].double().numpy(), rows.negative[i].double().numpy()
        difference = other - one if order[i] else one - other
        pairs.append(difference / np.linalg.norm(difference))
    x = np.stack(pairs)
    wanted = top_right_vector(x - x.mean(0))
    right = sum(
        np.sign((p - m) @ wanted / np.linalg.norm(p - m))
        for p, m in zip(rows.positive.double().numpy(), rows.negative.double().numpy(), strict=True)
    )
    agree(found, wanted * np.sign(right if right else wanted @ rows.mean_difference.double().numpy()))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_shrinkage_equals_the_formula_written_out(n, d):
    rows = make_rows(n, d)
    x = (rows.positive - rows.positive.mean(0)).double().numpy()
    covariance = sum(np.outer(r, r) for r in x) / n
    mean = np.trace(covariance) / d
    spread = np.square(covariance - mean * np.eye(d)).sum()
    error = sum(np.square(np.outer(r, r) - covariance).sum() for r in x) / n**2
    found = shrink(torch.from_numpy(x))
    assert found == pytest.approx((mean, min(error, spread) / spread), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_lda_solves_with_the_shrunk_covariance(n, d):
    """Both ways: by the covariance of entries, and where rows are fewer by that of rows."""
    rows = make_rows(n, d)
    p, m = rows.positive.double().numpy(), rows.negative.double().numpy()
    within = np.concatenate([p - p.mean(0), m - m.mean(0)])
    mean, share = shrink(torch.from_numpy(within))
    covariance = (1 - share) * within.T @ within / len(within) + share * mean * np.eye(d)
    agree(find_direction(rows, "lda"), np.linalg.solve(covariance, p.mean(0) - m.mean(0)))


def test_logistic_is_the_balanced_probe_of_the_house():
    rows = make_rows(40, 6, m=15)
    x, labels = rows.stacked()
    agree(find_direction(rows, "logistic"), fit_probe(x, labels > 0, balanced=True).weights)


@pytest.mark.parametrize("method", DIRECTIONS)
def test_every_direction_has_the_length_of_the_mean_difference_and_points_to_the_positive_side(method):
    rows = make_rows(60, 9)
    found = find_direction(rows, method)
    assert float(found.norm()) == pytest.approx(float(rows.mean_difference.norm()), rel=1e-5)
    assert float((rows.positive - rows.negative) @ found @ torch.ones(60)) > 0


@pytest.mark.parametrize("method", DIRECTIONS)
def test_sides_exchanged_turn_it_round(method):
    rows = make_rows(31, 8)
    agree(
        -find_direction(ContrastRows(rows.negative, rows.positive, True), method),
        find_direction(rows, method),
    )


@pytest.mark.parametrize("method", [name for name in DIRECTIONS if name != "logistic"])
def test_it_turns_with_the_space(method):
    """All but the logistic probe, whose penalty knows entries."""
    rows = make_rows(31, 8)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(5))).Q
    turned = ContrastRows(rows.positive @ turn, rows.negative @ turn, True)
    agree(find_direction(turned, method), find_direction(rows, method) @ turn)


@pytest.mark.parametrize("method", DIRECTIONS)
def test_the_unit_of_activations_does_not_matter(method):
    rows = make_rows(31, 8)
    small = ContrastRows(1e-3 * rows.positive, 1e-3 * rows.negative, True)
    agree(1e3 * find_direction(small, method), find_direction(rows, method), 1 - 1e-4)


@pytest.mark.parametrize("method", DIRECTIONS)
def test_unpaired_sides_of_unequal_size(method):
    rows = make_rows(50, 6, m=23)
    agree(find_direction(rows, method, seed=1), find_direction(rows, method, seed=1), 1.0 - 1e-9)
    assert float(find_direction(rows, method) @ rows.mean_difference) > 0 or method == "centred-pca"


def test_unpaired_rows_are_paired_by_the_seed():
    rows = make_rows(9, 6, paired=False)
    one, other = (find_direction(rows, "pca", seed) for seed in (0, 1))
    assert not torch.allclose(one, other)


def test_one_pair_is_its_difference_or_too_little():
    rows = make_rows(1, 5)
    for method in ("mean-difference", "pca"):
        torch.testing.assert_close(find_direction(rows, method), rows.mean_difference)
    for method in NEEDS_SPREAD:
        with pytest.raises(SteeringError, match=f"{method} (found no direction|needs).*mean-difference"):
            find_direction(rows, method)


def test_pairs_that_differ_by_one_vector_leave_the_centred_nothing():
    content = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    vector = torch.arange(6.0)
    rows = ContrastRows(content + vector, content, True)
    agree(find_direction(rows, "pca"), vector)
    with pytest.raises(SteeringError, match="centred-pca found no direction: 20 pairs leave nothing"):
        find_direction(rows, "centred-pca")


def test_pairs_that_do_not_differ_are_left_out_of_lat():
    rows = make_rows(12, 5)
    same = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    more = ContrastRows(torch.cat([rows.positive, same]), torch.cat([rows.negative, same]), True)
    agree(find_direction(more, "lat"), find_direction(rows, "lat"))


@pytest.mark.parametrize("method", DIRECTIONS)
def test_equal_sides_have_none(method):
    x = make_rows(6, 4).positive
    with pytest.raises(SteeringError, match="the same mean activation"):
        find_direction(ContrastRows(x, x, True), method)


def test_rows_that_all_are_one_have_no_covariance():
    rows = ContrastRows(torch.ones(4, 3), torch.zeros(4, 3), True)
    with pytest.raises(SteeringError, match="4 positive and 4 negative ones do not"):
        find_direction(rows, "lda")


def test_entries_that_never_vary_do_not_break_lda():
    rows = make_rows(30, 6)
    p, n = rows.positive.clone(), rows.negative.clone()
    p[:, 2], n[:, 2] = 1.0, 1.0
    found = find_direction(ContrastRows(p, n, True), "lda")
    assert bool(torch.isfinite(found).all())
    assert float(found[2]) == pytest.approx(0, abs=1e-6)


def test_bad_contrasts_and_names():
    with pytest.raises(SteeringError, match="at least one each"):
        ContrastRows(torch.zeros(0, 3), torch.ones(2, 3), False)
    with pytest.raises(SteeringError, match="NaN or infinity"):
        ContrastRows(torch.full((1, 3), torch.nan), torch.ones(2, 3), False)
    with pytest.raises(SteeringError, match="did you mean 'pca'"):
        find_direction(make_rows(4, 3), "pac")


def test_a_probe_reads_what_it_should_not_write():
    """Noise shared by two entries: the probe subtracts one from the other, which no prompt ever does."""
    draw = torch.Generator().manual_seed(0)
    noise = 3 * torch.randn(400, 1, generator=draw)
    own = 0.3 * torch.randn(400, 2, generator=draw)
    x = noise + own
    label = torch.tensor([[1.0, 0.0]])
    rows = ContrastRows(x[:200] + label, x[200:], False)
    for method in ("logistic", "lda"):
        found = find_direction(rows, method)
        assert float(found[1]) < -0.5 * float(found[0]) < 0
    assert abs(float(rows.mean_difference[1])) < 0.7
