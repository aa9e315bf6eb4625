"""Detectors against every latent and threshold tried by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.coders.ground_truth.detect import choose_detectors, judge_detectors


def f1_by_hand(taken, true):
    hits = sum(a and b for a, b in zip(taken, true, strict=True))
    size = sum(taken) + sum(true)
    return 2 * hits / size if size else 0.0


def best_by_hand(latents, labels, counted, sparse):
    """Every latent, every set of rows that a threshold can take."""
    best = 0.0
    for column in latents.T.tolist():
        for cut in set(column):
            if sparse and cut <= 0:
                continue
            rows = [i for i, keep in enumerate(counted.tolist()) if keep]
            taken = [column[i] >= cut for i in rows]
            best = max(best, f1_by_hand(taken, [bool(labels[i]) for i in rows]))
    return best


cases = st.integers(0, 10_000).flatmap(
    lambda seed: st.tuples(
        st.just(seed), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.booleans()
    )
)


@given(cases)
def test_the_best_of_all_latents_and_thresholds(case):
    seed, rows, latents, labels, sparse = case
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-2, 4, (rows, latents), generator=generator).float()
    true = torch.rand(rows, labels, generator=generator) < 0.5
    counted = torch.rand(rows, labels, generator=generator) < 0.8
    found = choose_detectors(values, true, counted, sparse=sparse)
    for j in range(labels):
        best = best_by_hand(values, true[:, j], counted[:, j], sparse)
        assert float(found.f1[j]) == pytest.approx(best, abs=1e-6)
    # the threshold found reaches that F1 on the same rows
    judged = judge_detectors(found, values, true, counted)
    there = (true & counted).any(0)
    torch.testing.assert_close(judged.f1[there], found.f1[there])


def test_quality_by_hand():
    latents = torch.tensor([[0.0, 3.0], [2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    labels = torch.tensor([[True, False], [False, True], [True, True], [True, False]])
    found = choose_detectors(latents, labels)
    assert found.latent.tolist() == [1, 0]
    # half way between 1, the least value that is right, and silence
    assert found.threshold.tolist() == [0.5, 0.5]
    fresh = torch.tensor([[0.0, 0.6], [0.4, 0.4], [2.0, 0.0], [0.0, 9.0]])
    truth = torch.tensor([[True, False], [True, False], [False, False], [False, False]])
    judged = judge_detectors(found, fresh, truth)
    assert judged.precision[0] == judged.recall[0] == judged.f1[0] == 0.5
    assert judged.f1[1].isnan()


def test_a_silent_dictionary_finds_nothing():
    found = choose_detectors(torch.zeros(5, 3), torch.ones(5, 2, dtype=torch.bool))
    assert found.f1.tolist() == [0.0, 0.0]
    assert not found.predict(torch.rand(4, 3)).any()


def test_neighbouring_numbers_are_told_apart():
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    latents = torch.stack([high, low])[:, None]
    labels = torch.tensor([[True], [False]])
    found = choose_detectors(latents, labels)
    assert found.predict(latents).tolist() == [[True], [False]]
