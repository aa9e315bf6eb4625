"""Geometry of directions and of firing, from dictionaries whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.coders.ground_truth import geometry
from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.ground_truth.geometry import measure_geometry
from interp.errors import CoderError, RecordError


def random_rows(n, d, seed=0):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("block", [3, 2048])
def test_nearest_against_all_pairs(block, monkeypatch):
    monkeypatch.setattr(geometry, "_ROWS", block)
    rows = random_rows(11, 5)
    found = measure_geometry(LinearDictionary(rows, 3 * rows))
    gram = rows @ rows.T
    for i in range(11):
        others = [(float(gram[i, j]), j) for j in range(11) if j != i]
        best, at = max(others)
        assert float(found.nearest_cosine[i]) == pytest.approx(best, abs=1e-6)
        assert int(found.nearest[i]) == at
    assert found.closest_pairs(1)[0][2] == pytest.approx(float(gram.fill_diagonal_(-1).max()), abs=1e-6)


def test_orthonormal_directions_fill_their_dimensions():
    eye = torch.eye(6)
    found = measure_geometry(LinearDictionary(eye, eye * torch.arange(1, 7)[:, None]))
    assert found.effective_dimension == pytest.approx(6.0)
    assert found.nearest_cosine.tolist() == [0.0] * 6
    line = measure_geometry(
        LinearDictionary(eye, eye[:1].expand(6, 6) * torch.tensor([[1.0], [2], [1], [1], [1], [1]]))
    )
    assert line.effective_dimension == pytest.approx(1.0, abs=1e-5)
    assert line.n_duplicates == 6


def test_random_directions_are_as_near_as_chance():
    rows = random_rows(300, 40, seed=3)
    found = measure_geometry(LinearDictionary(rows, rows), seed=8)
    assert float(found.nearest_cosine.median()) == pytest.approx(
        float(found.random_cosine.median()), abs=0.02
    )


def test_dead_duplicates():
    rows = torch.eye(5)
    encoder = torch.eye(5)
    rows[4], encoder[4] = rows[0], -rows[0]
    x = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    found = measure_geometry(LinearDictionary(encoder, rows), x)
    assert (found.n_dead, found.n_duplicates, found.n_dead_duplicates) == (1, 2, 1)
    assert found.firing.tolist() == [1, 1, 1, 1, 0]
    assert len(found.top) == 4
    # what always fires has no correlation
    assert found.phi.isnan().all()
    assert (found.jaccard == 1).all()


def test_coactivation_is_numpys_correlation():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(5))
    x[:, 1] = x[:, 0] + 0.5 * x[:, 1]
    found = measure_geometry(LinearDictionary(torch.eye(6), torch.eye(6)), x, top=4)
    fired = (x > 0).numpy()
    top = found.top.tolist()
    assert top == sorted(range(6), key=lambda i: -fired[:, i].sum())[:4]
    np.testing.assert_allclose(found.phi, np.corrcoef(fired[:, top].T), atol=1e-5)
    for i, a in enumerate(top):
        for j, b in enumerate(top):
            both, either = (fired[:, a] & fired[:, b]).sum(), (fired[:, a] | fired[:, b]).sum()
            assert float(found.jaccard[i, j]) == pytest.approx(both / either, abs=1e-6)


def test_without_activations_nothing_is_said_of_firing(tmp_path):
    rows = random_rows(5, 4)
    found = measure_geometry(LinearDictionary(rows, rows))
    assert (found.firing, found.n_dead, found.n_dead_duplicates) == (None, None, None)
    assert len(found.top) == 0
    read = type(found).load(found.save(tmp_path / "g"))
    assert read.to_frame().equals(found.to_frame())
    assert read.summary() == found.summary()
    assert "dead" not in found.summary()


def test_refusals():
    one = LinearDictionary(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(CoderError, match="at least two latents; got 1"):
        measure_geometry(one)
    two = LinearDictionary(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(CoderError, match="no rows"):
        measure_geometry(two, torch.zeros(0, 3))
    with pytest.raises(RecordError, match=r"nearest must be \[latent=2\]"):
        from dataclasses import replace

        replace(measure_geometry(two), nearest=torch.zeros(3).long())
