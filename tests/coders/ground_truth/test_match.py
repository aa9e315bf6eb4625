"""Recovery: dictionaries whose figures are known before they are measured."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.coders.ground_truth.dictionary import LinearDictionary, random_dictionary, reconstruct
from interp.coders.ground_truth.match import correlate, match_features, match_random, unexplained
from interp.coders.ground_truth.planted import PlantedConfig, load_suite, plant_features
from interp.coders.ground_truth.transcoder import plant_transcoder
from interp.errors import CoderError
from interp.results.feature_recovery import match_one_to_one

ORTHOGONAL = plant_features(PlantedConfig(n_features=12, d_in=16, l0=3.0, directions="orthogonal"))
"""A linear encoder reads these features exactly."""


def dictionary_of(rows, scale=1.0):
    """Reads each direction, and writes it back however long the rows are; rounding errors do not fire."""
    return LinearDictionary(rows / scale, rows * scale, torch.full((len(rows),), -1e-4 / scale))


def match(dictionary, planted=ORTHOGONAL, **options):
    return match_features(dictionary, planted, n=2000, **options)


def test_the_truth_scores_one():
    found = match(dictionary_of(ORTHOGONAL.directions))
    for name in ("mcc", "mmcs", "uniqueness", "activation_mcc", "f1", "precision", "recall"):
        assert getattr(found, name) == pytest.approx(1.0, abs=1e-3), name
    assert found.fvu == pytest.approx(0.0, abs=1e-6)
    assert found.l0 == pytest.approx(3.0, abs=0.1)
    assert found.matched.tolist() == found.detector.tolist() == list(range(12))


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_order_and_scale_change_nothing(scale):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    plain, moved = (
        match(dictionary_of(rows, s))
        for rows, s in ((ORTHOGONAL.directions, 1.0), (ORTHOGONAL.directions[order], scale))
    )
    for name, value in plain.figures().items():
        assert moved.figures()[name] == pytest.approx(value, abs=1e-3), name
    assert order[moved.matched].tolist() == list(range(12))


def test_a_negated_direction_counts_for_mcc_and_for_nothing_else():
    rows = ORTHOGONAL.directions.clone()
    rows[3] = -rows[3]
    found = match(dictionary_of(rows))
    assert found.mcc == pytest.approx(1.0, abs=1e-5)
    assert found.mmcs == pytest.approx(11 / 12, abs=1e-3)
    assert float(found.per_feature_f1[3]) < 0.7


def test_duplicates_lower_uniqueness_alone():
    rows = torch.cat([ORTHOGONAL.directions, ORTHOGONAL.directions[:4]])
    found = match(LinearDictionary(rows, rows))
    assert found.uniqueness == 12 / 16
    assert found.mcc == pytest.approx(1.0, abs=1e-5)
    assert found.f1 == pytest.approx(1.0, abs=1e-3)


def test_a_dictionary_of_fewer_latents_cannot_reach_one():
    found = match(dictionary_of(ORTHOGONAL.directions[:9]))
    assert found.mcc == pytest.approx(9 / 12, abs=1e-5)
    assert sorted(found.matched.tolist()) == [-1, -1, -1, *range(9)]
    assert found.uniqueness == 1.0


def test_latents_that_mix_two_features():
    d = ORTHOGONAL.directions
    mixed = torch.cat([d[:10], ((d[10] + d[11]) / math.sqrt(2))[None]])
    found = match(dictionary_of(mixed))
    # one of both is matched, at a cosine of 1 / sqrt 2; both have it as their nearest
    assert found.mcc == pytest.approx((10 + 0.5**0.5) / 12, abs=1e-4)
    assert found.mmcs == pytest.approx((10 + 2 * 0.5**0.5) / 12, abs=1e-4)
    assert found.detector[10] == found.detector[11] == 10


def test_random_directions_are_near_their_expectation():
    """Of L random directions the largest of |cosine| with a given one has a known mean."""
    d, n = 64, 128
    planted = load_suite("superposition")
    found = [match_random(planted, n, 4, n=400, seed=seed) for seed in range(3)]
    drawn = torch.randn(4000, n, d, generator=torch.Generator().manual_seed(9))[:300]
    expected = float((drawn / drawn.norm(dim=-1, keepdim=True))[..., 0].amax(1).mean())
    assert sum(one.mmcs for one in found) / 3 == pytest.approx(expected, abs=0.015)
    assert max(one.mcc for one in found) < 0.4
    assert max(one.f1 for one in found) < 0.4


def test_random_dictionaries_are_fitted_and_sparse():
    planted = load_suite("superposition")
    x, _ = planted.sample(3000, torch.Generator().manual_seed(0))
    drawn = random_dictionary(x, 128, 5, torch.Generator().manual_seed(1))
    latents, out = reconstruct(drawn, x)
    assert int((latents > 0).sum(1).max()) <= 5
    assert 0.4 < unexplained(x, out) < 1.0
    # no other gain is better
    for gain in (0.8, 1.2):
        assert unexplained(x, x.mean(0) + gain * (out - x.mean(0))) > unexplained(x, out)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_hungarian_against_every_match(seed, latents, features):
    scores = torch.rand(latents, features, generator=torch.Generator().manual_seed(seed))
    found = match_one_to_one(scores)
    there = found >= 0
    assert int(there.sum()) == min(latents, features) == len(found[there].unique())
    total = float(scores[found[there], torch.arange(features)[there]].double().sum())
    small, large = sorted((latents, features))
    table = scores if latents <= features else scores.T
    best = max(
        sum(float(table[i, j]) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(large), small)
    )
    assert total == pytest.approx(best, abs=1e-6)


def test_correlations_are_numpys():
    generator = torch.Generator().manual_seed(2)
    a, b = torch.rand(30, 3, generator=generator), torch.rand(30, 2, generator=generator)
    expected = torch.corrcoef(torch.cat([a, b], dim=1).T)[:3, 3:]
    torch.testing.assert_close(correlate(a, b), expected, atol=1e-5, rtol=0)
    assert (correlate(torch.ones(30, 1), b) == 0).all()


def test_a_transcoder_is_matched_by_what_it_writes():
    planted = plant_transcoder(ORTHOGONAL, d_out=10, n_outputs=14)
    found = match(LinearDictionary(ORTHOGONAL.directions, planted.written), planted)
    assert found.mcc == pytest.approx(1.0, abs=1e-5)
    assert found.fvu == pytest.approx(0.0, abs=1e-8)
    shuffled = match(LinearDictionary(ORTHOGONAL.directions, planted.written.roll(1, 0)), planted)
    assert shuffled.fvu > 0.5
    assert shuffled.mcc == pytest.approx(1.0, abs=1e-5)
    assert match_random(planted, 20, 3, n=500).fvu < 1.0


def test_fvu_of_the_mean_is_one():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    assert unexplained(x, x.mean(0).expand(50, 4)) == pytest.approx(1.0)
    assert unexplained(x, x + 1) == pytest.approx(200 / float((x - x.mean(0)).square().sum()), rel=1e-5)


def test_gradients_are_not_kept():
    rows = ORTHOGONAL.directions.clone().requires_grad_()
    found = match(LinearDictionary(rows, rows))
    assert not found.cosines.requires_grad


def test_refusals():
    with pytest.raises(CoderError, match="writes 5 dimensions, planted superposition has 16"):
        match(LinearDictionary(torch.ones(3, 16), torch.ones(3, 5)))
    with pytest.raises(CoderError, match="n=1"):
        match_features(dictionary_of(ORTHOGONAL.directions), ORTHOGONAL, n=1)
    with pytest.raises(CoderError, match="3 and 2 rows"):
        LinearDictionary(torch.ones(3, 4), torch.ones(2, 4))
    with pytest.raises(CoderError, match="k lies between 1 and 3"):
        LinearDictionary(torch.ones(3, 4), torch.ones(3, 4), k=4)
