"""Probes and their figures, against formulas, brute force and rows that are written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.coders.probing.logistic import fit_probe
from interp.coders.probing.quality import (
    balanced_accuracy,
    draw_weights,
    probe_quality,
    weighted_f1,
    with_interval,
)
from interp.errors import CoderError


def rows_of(n=200, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0][:d]) + 3
    odds = (x - 3) @ torch.tensor([1.0, -0.3, 2.0, 0.0, 0.5][:d])
    return x, torch.rand(n, generator=generator) < odds.sigmoid()


@pytest.mark.parametrize("balanced", [False, True])
def test_the_gradient_of_the_loss_vanishes(balanced):
    x, y = rows_of()
    probe = fit_probe(x, y, l2=0.01, balanced=balanced)
    columns = (x - x.mean(0)) / x.std(0, unbiased=False)
    weights = (probe.weights * x.std(0, unbiased=False)).double().requires_grad_()
    bias = torch.tensor(
        probe.bias + float(probe.weights @ x.mean(0)), dtype=torch.float64, requires_grad=True
    )
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        columns.double() @ weights + bias, y.double(), reduction="none"
    )
    loss = (each[y].mean() + each[~y].mean()) / 2 if balanced else each.mean()
    (loss + 0.005 * weights.square().sum()).backward()
    assert float(weights.grad.abs().max()) < 1e-5
    assert float(bias.grad.abs()) < 1e-5


def test_separable_rows_are_separated():
    x, _ = rows_of(300, 4, seed=2)
    y = x @ torch.tensor([1.0, 0.2, -3.0, 0.0]) > -5.4
    probe = fit_probe(x, y, l2=1e-5)
    assert ((probe.score(x) > 0) == y).float().mean() > 0.99


def test_constant_columns_and_scale_change_nothing():
    x, y = rows_of()
    plain = fit_probe(x, y).score(x)
    moved = torch.cat([1000 * x[:, :2] - 7, x[:, 2:], torch.full((200, 1), 4.0)], dim=1)
    found = fit_probe(moved, y)
    assert found.weights[-1] == 0
    torch.testing.assert_close(found.score(moved), plain, atol=2e-3, rtol=1e-3)


def test_a_direction_adds_what_it_says():
    x, y = rows_of()
    probe, step = fit_probe(x, y), torch.randn(5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        probe.score(x + step) - probe.score(x), probe.score_direction(step).expand(200), atol=1e-4, rtol=1e-4
    )


def test_refusals():
    x, y = rows_of(20)
    with pytest.raises(CoderError, match="20 of 20 are yes"):
        fit_probe(x, torch.ones(20, dtype=torch.bool))
    with pytest.raises(CoderError, match="l2 must be above 0"):
        fit_probe(x, y, l2=0)
    with pytest.raises(CoderError, match="NaN or infinity"):
        fit_probe(x / 0, y)


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=2, max_size=9))
def test_quality_by_hand(items):
    scores = torch.tensor([float(s) for s, _ in items])
    answers = torch.tensor([a for _, a in items])
    accuracy, f1, auc = probe_quality(scores, answers, np.ones((1, len(items))))[0]
    said = [s > 0 for s, _ in items]
    assert accuracy == pytest.approx(np.mean([a == b for a, (_, b) in zip(said, items, strict=True)]))
    hits = sum(a and b for a, (_, b) in zip(said, items, strict=True))
    true, false = ([s for s, a in items if a is which] for which in (True, False))
    if true:
        assert f1 == pytest.approx(2 * hits / (sum(said) + len(true)))
    else:
        assert np.isnan(f1)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(true, false)]
    assert auc == pytest.approx(np.mean(pairs)) if pairs else np.isnan(auc)


def test_weights_are_whole_prompts_and_count_as_copies():
    prompt = torch.tensor([4, 4, 9, 9, 9, 2])
    weights = draw_weights(prompt, seed=3, resamples=50)
    assert (weights[0] == 1).all()
    for row in weights[1:]:
        assert row[0] == row[1] and row[2] == row[3] == row[4]
        assert row[0] + row[2] + row[5] == 3
    scores = torch.tensor([0.3, -1.0, 2.0, -0.5, 0.3, 1.0])
    answers = torch.tensor([True, False, True, True, False, False])
    for found, row in zip(probe_quality(scores, answers, weights), weights, strict=True):
        copies = torch.from_numpy(row).long()
        again = probe_quality(
            scores.repeat_interleave(copies), answers.repeat_interleave(copies), np.ones((1, int(row.sum())))
        )[0]
        np.testing.assert_allclose(found, again)
    said = torch.stack([scores > 0, scores > 0.5], dim=1)
    table = answers[:, None].expand(-1, 2)
    for f1, balanced, row in zip(
        weighted_f1(said, table, weights), balanced_accuracy(said, answers, weights), weights, strict=True
    ):
        copies = torch.from_numpy(row).long()
        s, a = said.repeat_interleave(copies, 0), answers.repeat_interleave(copies)
        for j in range(2):
            hits = (s[:, j] & a).sum()
            if a.any():
                assert f1[j] == pytest.approx(float(2 * hits / (s[:, j].sum() + a.sum())))
            if a.any() and not a.all():
                rates = s[a, j].double().mean() + (~s[~a, j]).double().mean()
                assert balanced[j] == pytest.approx(float(rates / 2))
            else:
                assert np.isnan(balanced[j])


def test_intervals_are_percentiles_where_defined():
    found = np.array([[0.5, np.nan], [0.4, np.nan], [0.6, np.nan], [np.nan, np.nan]])
    value, low, high = with_interval(found, 0.5)[0].tolist()
    assert (value, low, high) == pytest.approx((0.5, 0.45, 0.55))
    assert with_interval(found, 0.5)[1].isnan().all()
