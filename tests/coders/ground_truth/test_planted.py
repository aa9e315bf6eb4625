"""Planted features: directions, how often and which of them fire, and rows rebuilt from the truth."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.coders.ground_truth.directions import draw_directions, welch_bound
from interp.coders.ground_truth.planted import SUITES, PlantedConfig, load_suite, plant_features
from interp.coders.ground_truth.structure import Correlated, Hierarchy
from interp.coders.ground_truth.transcoder import plant_transcoder
from interp.errors import CoderError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def largest_cosine(directions):
    gram = directions @ directions.T
    return float(gram.fill_diagonal_(0).abs().max())


@pytest.mark.parametrize(("n", "d"), [(7, 4), (40, 16), (128, 64)])
def test_low_coherence_is_near_the_bound_and_random_is_not(n, d):
    spread = draw_directions(n, d, "low-coherence", generator())
    random = draw_directions(n, d, "random", generator())
    for directions in (spread, random):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(n))
    bound = welch_bound(n, d)
    assert bound - 1e-4 <= largest_cosine(spread) < 1.6 * bound
    assert largest_cosine(random) > 1.2 * largest_cosine(spread)


def test_directions_that_fit_are_orthogonal():
    for kind in ("low-coherence", "orthogonal"):
        found = draw_directions(5, 9, kind, generator())
        torch.testing.assert_close(found @ found.T, torch.eye(5), atol=1e-5, rtol=0)
    with pytest.raises(CoderError, match="10 directions cannot be orthogonal in 9 dimensions"):
        draw_directions(10, 9, "orthogonal", generator())
    with pytest.raises(CoderError, match="did you mean 'random'"):
        draw_directions(10, 9, "randon", generator())


def test_rows_are_sums_of_directions():
    planted = plant_features(PlantedConfig(n_features=20, d_in=8, l0=3.0, bias=2.0))
    x, activations = planted.sample(50, generator(1))
    rebuilt = torch.stack(
        [
            planted.bias + sum(a * d for a, d in zip(row, planted.directions, strict=True))
            for row in activations
        ]
    )
    torch.testing.assert_close(x, rebuilt)
    assert float(planted.bias.norm()) == pytest.approx(2.0, rel=1e-5)
    fired = activations[activations > 0]
    assert float(fired.min()) >= 0.5 and float(fired.max()) <= 1.5


def test_noise_has_its_standard_deviation():
    quiet = PlantedConfig(n_features=10, d_in=6, l0=1.0)
    clean, _ = plant_features(quiet).sample(4000, generator(3))
    noisy, _ = plant_features(replace(quiet, noise=0.2)).sample(4000, generator(3))
    assert float((noisy - clean).std()) == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("name", SUITES)
def test_features_fire_as_often_as_they_should(name):
    planted = load_suite(name)
    _, activations = planted.sample(20_000, generator(2))
    p = planted.probabilities
    assert float(p.sum()) == pytest.approx(SUITES[name].l0, rel=1e-5)
    off = ((activations > 0).float().mean(0) - p).abs() / (p * (1 - p) / 20_000).sqrt()
    assert float(off.max()) < 5


def test_zipf_probabilities_fall_as_their_power():
    p = PlantedConfig(n_features=64, l0=2.0, zipf=1.0).probabilities()
    assert float(p[0] / p[9]) == pytest.approx(10.0, rel=1e-5)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.1, 1.0), st.integers(0, 3))
def test_children_fire_alone_and_under_their_parent(n_parents, n_children, share, free):
    n = n_parents * (1 + n_children) + free
    config = PlantedConfig(
        n_features=n, d_in=8, l0=0.3 * n_parents, structure=Hierarchy(n_parents, n_children, share)
    )
    planted = plant_features(config)
    _, activations = planted.sample(400, generator(4))
    firing, parents = activations > 0, planted.parents
    assert int((parents >= 0).sum()) == n_parents * n_children
    assert (parents[:n_parents] == -1).all() and (parents[n - free :] == -1).all()
    for parent in range(n_parents):
        children = firing[:, parents == parent]
        assert children.shape[1] == n_children
        assert not (children.any(1) & ~firing[:, parent]).any()
        assert int(children.sum(1).max()) <= 1


def test_share_of_parents_with_a_child():
    config = PlantedConfig(n_features=16, d_in=16, l0=2.0, structure=Hierarchy(4, 3, 0.6))
    planted = plant_features(config)
    firing = planted.sample(20_000, generator())[1] > 0
    some = firing[:, 4:7].any(1)
    assert float(some[firing[:, 0]].float().mean()) == pytest.approx(0.6, abs=0.03)


def test_groups_fire_together_and_only_they():
    config = PlantedConfig(n_features=10, d_in=16, l0=2.0, structure=Correlated(4, 0.8))
    firing = (plant_features(config).sample(20_000, generator())[1] > 0).float()
    phi = torch.corrcoef(firing.T)
    groups = torch.arange(10) // 4
    same = (groups[:, None] == groups) & ~torch.eye(10, dtype=torch.bool)
    assert float(phi[same].min()) > 0.3
    assert float(phi[groups[:, None] != groups].abs().max()) < 0.04


def test_the_seed_alone_decides():
    first, again, other = load_suite("hierarchy"), load_suite("hierarchy"), load_suite("hierarchy", seed=1)
    assert torch.equal(first.directions, again.directions)
    assert not torch.equal(first.directions, other.directions)
    state = torch.random.get_rng_state()
    one, two = (list(first.batches(32, seed=7, rows=80)) for _ in range(2))
    assert [len(batch) for batch in one] == [32, 32, 16]
    assert all(torch.equal(a.x, b.x) and a.is_reconstruction for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].x, one[1].x)
    assert torch.equal(state, torch.random.get_rng_state())


def test_endless_batches():
    stream = load_suite("superposition").batches(8)
    assert all(len(next(stream)) == 8 for _ in range(5))


def test_a_transcoder_writes_what_its_map_says():
    planted = plant_transcoder(load_suite("superposition"), d_out=24, n_outputs=30, fan_out=2, skip=0.5)
    rows = planted.draw(40, generator(5))
    by_hand = torch.zeros(40, 24)
    for i, row in enumerate(rows.activations):
        for f in row.nonzero()[:, 0].tolist():
            for g in planted.map[f].nonzero()[:, 0].tolist():
                by_hand[i] += row[f] * planted.map[f, g] * planted.output_directions[g]
        by_hand[i] += planted.skip.T @ rows.x[i]
    torch.testing.assert_close(rows.target, by_hand, atol=1e-5, rtol=1e-4)
    assert ((planted.map != 0).sum(1) == 2).all()
    batch = next(planted.batches(16))
    assert not batch.is_reconstruction
    assert batch.target.shape == (16, 24)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantedConfig(l0=0), "l0 at most the features"),
        (lambda: PlantedConfig(magnitude=(0.0, 1.0)), "magnitudes are a positive range"),
        (lambda: PlantedConfig(n_features=10, l0=8, zipf=2.0), "would have to fire on 5.16 of all rows"),
        (
            lambda: PlantedConfig(n_features=9, l0=1.0, structure=Hierarchy(2, 4)),
            "are 10 features; there are 9",
        ),
        (lambda: Hierarchy(share=0), r"a share in \(0, 1\]"),
        (lambda: Correlated(correlation=1.0), "at least 2 features"),
        (lambda: load_suite("superpositon"), "did you mean 'superposition'"),
        (lambda: load_suite("hierarchy").batches(0), "at least one row"),
        (lambda: plant_transcoder(load_suite("hierarchy"), fan_out=0), "fan_out lies between 1 and 64"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(CoderError, match=message):
        make()


def test_configs_are_frozen():
    with pytest.raises(FrozenInstanceError):
        PlantedConfig().l0 = 3
