"""The Jensen-Shannon layer search, against the formula and against what its public code computes instead."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_search_world import candidates_of

from interp.steering.contrast import ContrastRows
from interp.steering.search.divergence import js_divergence, score_divergence

LISTS = st.lists(st.floats(-60, 60), min_size=3, max_size=3)


def by_hand(p, q):
    """From probabilities, entry by entry."""
    p, q = (torch.tensor(x).double().softmax(0).tolist() for x in (p, q))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    kl = [sum(a * math.log(a / m) for a, m in zip(x, middle, strict=True) if a > 0) for x in (p, q)]
    return sum(kl) / 2


@given(LISTS, LISTS)
def test_it_is_symmetric_bounded_and_the_formula(p, q):
    a, b = torch.tensor(p), torch.tensor(q)
    found = float(js_divergence(a, b))
    assert 0 <= found <= math.log(2)
    assert found == pytest.approx(float(js_divergence(b, a)), abs=1e-12)
    assert found == pytest.approx(by_hand(a.tolist(), b.tolist()), abs=1e-9)


def test_its_ends():
    far = torch.tensor([[800.0, 0.0, 0.0], [0.0, 800.0, 0.0]])
    assert float(js_divergence(far[0], far[1])) == pytest.approx(math.log(2))
    assert float(js_divergence(far[0], far[0] + 5)) == 0


def with_probabilities(p, q):
    """What the public code does: probabilities where ``kl_div`` takes log-probabilities."""
    p, q = p.softmax(-1), q.softmax(-1)
    m = (p + q) / 2
    kl = torch.nn.functional.kl_div
    return (kl(p, m, reduction="none").sum(-1) + kl(q, m, reduction="none").sum(-1)) / 2


def test_probabilities_for_log_probabilities_choose_another_layer():
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(2, 20, 8, generator=generator)
    peak = torch.zeros(8)
    peak[0] = 20.0
    alike = ContrastRows(peak + noise[0], peak + noise[1], True)
    tilt = torch.linspace(-1, 1, 8)
    apart = ContrastRows(tilt + noise[0], -tilt + noise[1], True)
    layers = [alike, apart]
    ours = score_divergence(candidates_of(layers))
    theirs = torch.stack([with_probabilities(r.positive, r.negative).mean() for r in layers])
    assert int(ours.argmax()) == 1
    assert ours[1] > 100 * ours[0]
    assert int(theirs.argmax()) == 0


def test_sides_that_are_not_paired_are_paired_by_the_seed():
    generator = torch.Generator().manual_seed(1)
    rows = ContrastRows(torch.randn(5, 8, generator=generator), torch.randn(9, 8, generator=generator), False)
    found = [float(score_divergence(candidates_of([rows]), seed)[0]) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
