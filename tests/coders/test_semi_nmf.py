"""Semi-NMF: each step against a naive reference, losses that never rise, planted features found again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, nnls
from torch import Tensor

from interp.coders.files import load_coder
from interp.coders.semi_nmf import SemiNMF, fit_semi_nmf
from interp.coders.semi_nmf.updates import (
    descend_features,
    improve,
    keep_largest,
    measure_loss,
    multiply_weights,
    solve_features,
)
from interp.errors import CoderError, DataFileError

INITS = ["nearest", "random", "svd"]


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plant(seed: int, d: int = 60, k: int = 8, size: int = 4, rows: int = 500) -> tuple[Tensor, Tensor]:
    """Activations [row, d] of k groups of neurons, about two of which are on in a row; and the groups [k, d]."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.zeros(k, d)
    for group in groups:
        group[torch.randperm(d, generator=generator)[:size]] = torch.randn(size, generator=generator)
    groups /= groups.norm(dim=1, keepdim=True)
    on = (torch.rand(rows, k, generator=generator) < 2 / k) * torch.rand(rows, k, generator=generator)
    return on @ groups + 0.01 * torch.randn(rows, d, generator=generator), groups


def match(found: Tensor, planted: Tensor) -> float:
    """Mean cosine of matched directions, signs counting."""
    cosines = (found @ planted.T).detach().numpy()
    return float(cosines[linear_sum_assignment(-cosines)].mean())


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("sparsity", [0.01, 0.07, 0.5, 1.0])
def test_the_loss_never_rises(init: Any, sparsity: float) -> None:
    a = _draw(90, 37) * _draw(37, seed=1).abs()
    coder = fit_semi_nmf(a, 6, init=init, sparsity=sparsity, iterations=60, tolerance=0, progress=False)
    losses = np.array(coder.losses)
    assert len(losses) > 5 and losses[-1] < losses[0]
    # to the rounding of a sum of squares
    assert (np.diff(losses) <= 1e-12).all()


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=60)
def test_no_step_raises_the_loss(seed: int, rows: int, d: int, k: int) -> None:
    a, g, f = _draw(rows, d, seed=seed), _draw(rows, k, seed=seed + 1).abs(), _draw(d, k, seed=seed + 2)
    before = measure_loss(a, g, f)
    assert measure_loss(a, multiply_weights(a, g, f, 1), f) <= before * (1 + 1e-12)
    for kept in (1, d // 2 + 1, d):
        start = keep_largest(f, kept)
        loss = measure_loss(a, g, start)
        after = descend_features(a, g, start, kept)
        assert measure_loss(a, g, after) <= loss * (1 + 1e-12)
        weights, features = improve(a, g, start, kept, loss)
        assert measure_loss(a, weights, features) <= loss * (1 + 1e-12)
        assert ((after != 0).sum(0) <= kept).all() and ((features != 0).sum(0) <= kept).all()


def test_steps_against_loops() -> None:
    a, g, f = _draw(7, 5), _draw(7, 3, seed=1).abs(), _draw(5, 3, seed=2)
    expected = np.empty((7, 3))
    for i in range(7):
        for j in range(3):
            up = down = 0.0
            product = sum(float(a[i, n] * f[n, j]) for n in range(5))
            up, down = max(product, 0.0), max(-product, 0.0)
            for m in range(3):
                gram = sum(float(f[n, m] * f[n, j]) for n in range(5))
                up += float(g[i, m]) * max(-gram, 0.0)
                down += float(g[i, m]) * max(gram, 0.0)
            expected[i, j] = float(g[i, j]) * (up / down) ** 0.5
    np.testing.assert_allclose(multiply_weights(a, g, f, times=1).numpy(), expected, rtol=1e-12)
    least_squares = np.linalg.lstsq(g.numpy(), a.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(solve_features(a, g, 5).numpy(), least_squares, rtol=1e-10)
    largest = np.abs(least_squares).argsort(0)[-2:]
    twice = multiply_weights(a, multiply_weights(a, g, f, 1), f, 1)
    torch.testing.assert_close(multiply_weights(a, g, f, 2), twice)
    cut = solve_features(a, g, 2).numpy()
    assert (np.sort((cut != 0).nonzero()[0]) == np.sort(largest.ravel())).all()
    assert measure_loss(a, g, f) == pytest.approx(
        np.linalg.norm(a - g @ f.T) ** 2 / np.linalg.norm(a) ** 2, rel=1e-12
    )


def test_planted_groups_are_found_and_noise_is_not() -> None:
    found, chance = [], []
    for seed in range(5):
        a, groups = plant(seed)
        coder = fit_semi_nmf(a, 8, sparsity=4 / 60, seed=seed, progress=False)
        assert ((coder.W_dec != 0).sum(1) <= 4).all()
        torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(8))
        found.append(match(coder.W_dec, groups))
        random = keep_largest(torch.randn(60, 8, generator=torch.Generator().manual_seed(seed)), 4).T
        chance.append(match(random / random.norm(dim=1, keepdim=True), groups))
    assert np.mean(found) > 0.9 and min(found) > 0.8 and max(chance) < 0.6


def test_one_seed_one_result() -> None:
    a, _ = plant(0)
    state = torch.random.get_rng_state()
    one, two, other = (fit_semi_nmf(a, 5, seed=seed, iterations=9, progress=False) for seed in (3, 3, 4))
    assert torch.equal(one.W_dec, two.W_dec) and one.losses == two.losses
    assert not torch.equal(one.W_dec, other.W_dec)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tolerance_and_iterations_end_the_fit() -> None:
    a, _ = plant(0)
    assert len(fit_semi_nmf(a, 5, iterations=4, tolerance=0, progress=False).losses) == 4
    losses = fit_semi_nmf(a, 5, tolerance=0.05, progress=False).losses
    falls = [1 - after / before for before, after in pairwise(losses)]
    assert falls[-1] <= 0.05 and all(fall > 0.05 for fall in falls[:-1])


@pytest.mark.parametrize(("d", "k"), [(11, 6), (6, 6), (5, 9)])
def test_latents_are_the_non_negative_least_squares(d: int, k: int) -> None:
    coder = SemiNMF(_draw(k, d, seed=3))
    x = _draw(4, 5, d, seed=4)
    latents = coder.encode(x)
    assert latents.shape == (4, 5, k) and (latents >= 0).all() and (latents == 0).any()
    for row, mine in zip(x.reshape(-1, d), latents.reshape(-1, k), strict=True):
        best, error = nnls(coder.W_dec.detach().numpy().T, row.numpy())
        assert float((coder.decode(mine) - row).detach().norm()) == pytest.approx(error, rel=1e-5, abs=1e-5)
        if k <= d:
            np.testing.assert_allclose(mine.numpy(), best, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch() -> None:
    a, _ = plant(1)
    coder = fit_semi_nmf(a, 8, iterations=20, progress=False)
    torch.testing.assert_close(coder.encode(a[3:5]), coder.encode(a)[3:5], atol=1e-5, rtol=1e-5)
    refit = (a - coder(a).detach()).square().sum() / a.square().sum()
    assert float(refit) <= coder.losses[-1] * (1 + 1e-4)


def test_sparse_latents_and_dead_features() -> None:
    a, _ = plant(2)
    rows = torch.cat([fit_semi_nmf(a, 4, iterations=20, progress=False).W_dec.detach(), torch.zeros(1, 60)])
    coder = SemiNMF(rows, sites=("mlp_post[1]",))
    dense, sparse = coder.encode(a[:6].view(2, 3, 60)), coder.latents(a[:6].view(2, 3, 60))
    assert not dense[..., 4].any() and torch.isfinite(dense).all()
    assert torch.equal(sparse.to_dense(), dense.view(6, 5)) and (sparse.values > 0).all()
    assert torch.equal(coder.decode(sparse), coder.decode(dense).view(6, 60))
    assert (coder.d_in, coder.d_out, coder.d_sae, coder.target_sites) == (60, 60, 5, ("mlp_post[1]",))
    with pytest.raises(CoderError, match=r"\[\.\.\., 60\]; got shape \[3, 7\]"):
        coder.encode(torch.zeros(3, 7))


def test_it_comes_back_from_its_folder_to_the_bit(tmp_path: Path) -> None:
    a, _ = plant(0)
    coder = fit_semi_nmf(a, 5, sites=["mlp_post[2]"], iterations=6, progress=False)
    found = load_coder(coder.save(tmp_path / "coder"))
    assert isinstance(found, SemiNMF)
    assert torch.equal(found.W_dec, coder.W_dec)
    assert (found.sites, found.losses, found.metadata) == (coder.sites, coder.losses, coder.metadata)
    path = tmp_path / "coder" / "cfg.json"
    cfg = json.loads(path.read_text())
    for change, says in (
        ({"d_sae": 6}, r"W_dec must be \[6, 60\]; got \[5, 60\]"),
        ({"metadata": {}}, "interp"),
    ):
        path.write_text(json.dumps({**cfg, **change}))
        with pytest.raises(DataFileError, match=says):
            load_coder(tmp_path / "coder")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 0}, "k must be an integer in 1..20"),
        ({"k": 21}, "k must be an integer in 1..20"),
        ({"k": 11, "init": "svd"}, "1..10 for"),
        ({"init": "nearst"}, "did you mean 'nearest'"),
        ({"sparsity": 0.0}, "sparsity"),
        ({"iterations": 0}, "iterations"),
        ({"activations": torch.zeros(20, 10)}, "not all zero"),
        ({"activations": torch.full((20, 10), torch.nan)}, "finite"),
        ({"activations": torch.ones(2, 20, 10)}, r"\[row, d_mlp\]; got torch.float32 \[2, 20, 10\]"),
    ],
)
def test_what_cannot_be_fitted_is_said(options: dict[str, Any], says: str) -> None:
    given = {"activations": torch.ones(20, 10), "k": 3, "progress": False, **options}
    with pytest.raises(CoderError, match=says):
        fit_semi_nmf(**given)


def test_weights_of_zero_stay_zero() -> None:
    a, f = torch.tensor([[10.0, 0.0], [5.0, 1.0]]), torch.eye(2)
    after = multiply_weights(a, torch.tensor([[0.0, 0.0], [1e-38, 2.0]]), f)
    assert not after[0].any() and torch.isfinite(after).all()
    assert after[1, 0] > 1e-38
