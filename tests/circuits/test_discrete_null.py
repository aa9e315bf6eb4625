"""Shuffled labels: against sets written out, and right in how often they cry wolf."""

from __future__ import annotations

import numpy as np
import pytest

from interp.circuits.discrete import null
from interp.circuits.discrete.null import score_shuffled, shuffle_labels


def unique_in_sets(codes: np.ndarray, positive: np.ndarray) -> int:
    return len(set(codes[positive].tolist()) - set(codes[~positive].tolist()))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("limit", [1 << 22, 30])
def test_p_values_and_means_written_out(paired, limit, monkeypatch):
    monkeypatch.setattr(null, "_LARGEST", limit)
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 4, (12, 5))
    codes[:6, 2] += 4
    labels = shuffle_labels(6, 40, paired, seed=3)
    found = score_shuffled(codes, labels)
    scores = np.array([[unique_in_sets(codes[:, head], row) for head in range(5)] for row in labels])
    p = np.array([[(scores[:, head] >= score).mean() for head, score in enumerate(row)] for row in scores])
    family = [(p.min(1) <= p[0, head]).mean() for head in range(5)]
    assert found.p_values == pytest.approx(p[0])
    assert found.family_p_values == pytest.approx(family)
    assert found.means == pytest.approx(scores[1:].mean(0))


@pytest.mark.parametrize("paired", [True, False])
def test_labels_are_balanced_and_begin_with_the_true_ones(paired):
    labels = shuffle_labels(5, 200, paired, seed=1)
    assert labels.shape == (201, 10)
    assert labels[0].tolist() == [True] * 5 + [False] * 5
    assert (labels.sum(1) == 5).all()
    assert labels[1:].mean(0) == pytest.approx(np.full(10, 0.5), abs=0.1)
    swapped = labels[:, :5] != labels[:, 5:]
    assert swapped.all() == paired
    assert (shuffle_labels(5, 200, paired, seed=1) == labels).all()
    assert (shuffle_labels(5, 200, paired, seed=2) != labels).any()


@pytest.mark.parametrize("paired", [True, False])
def test_exchangeable_labels_are_rarely_called_significant(paired):
    draw = np.random.default_rng(5)
    alone, any_head = [], []
    for seed in range(150):
        shared = draw.integers(0, 6, (8, 4))
        # both prompts of a pair mostly show the same code
        sides = [np.where(draw.random((8, 4)) < 0.6, shared, draw.integers(0, 6, (8, 4))) for _ in range(2)]
        found = score_shuffled(np.concatenate(sides), shuffle_labels(8, 60, paired, seed))
        alone.append(found.p_values <= 0.1)
        any_head.append(found.family_p_values.min() <= 0.1)
    assert np.mean(alone) <= 0.1
    assert np.mean(any_head) <= 0.14


def test_a_head_that_differs_on_every_prompt_has_the_smallest_p():
    codes = np.zeros((20, 3), dtype=int)
    codes[:10, 1] = 1
    found = score_shuffled(codes, shuffle_labels(10, 99, False, seed=1))
    assert found.p_values == pytest.approx([1.0, 0.01, 1.0])
    assert found.family_p_values == pytest.approx([1.0, 0.01, 1.0])
