"""Planted directions: uncentred PCA finds them, centred PCA does not."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows, read_contrast
from interp.steering.extract.planted import (
    measure_cosines,
    plant_in_rows,
    planted_token,
    recover_from_model,
    recover_from_rows,
)

METHODS = ("mean-difference", "pca", "centred-pca", "lat")


def test_in_rows_uncentred_components_find_it_and_the_centred_one_does_not():
    found = recover_from_rows(strengths=(1.0, 4.0, 8.0), methods=METHODS, n_seeds=5)
    for method in ("mean-difference", "pca", "lat"):
        assert found.at(method, 4.0).value > 0.95
        assert found.at(method, 8.0).low > 0.98
    for strength in (1.0, 4.0, 8.0):
        assert found.at("centred-pca", strength).value < 0.1
    # below the nuisance no component finds it; the mean still points there
    assert found.at("pca", 1.0).value < 0.2
    assert found.at("mean-difference", 1.0).value > 0.6


def test_in_a_model_uncentred_components_find_it_and_the_centred_one_does_not(mix):
    found = recover_from_model(mix, "embed", strengths=(4.0, 8.0), methods=METHODS, n_seeds=3)
    for strength in (4.0, 8.0):
        for method in ("mean-difference", "pca", "lat"):
            assert float(found.cosines[METHODS.index(method)].min()) > 0.95
        assert found.at("centred-pca", strength).value < 0.15


def test_a_layer_later_it_is_still_there(mix):
    """What the token makes of its prompt differs in size from prompt to prompt, and centring finds some of that."""
    found = recover_from_model(mix, "resid_post[0]", strengths=(8.0,), methods=METHODS, n_seeds=2)
    assert found.at("pca", 8.0).value > 0.95
    assert found.at("centred-pca", 8.0).value < found.at("pca", 8.0).value - 0.02


def test_in_every_family(make_hf_model, family):
    model = interp.load_model(make_hf_model(family))
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 48, (64, 9), generator=draw)
    before = {name: weight.clone() for name, weight in model.named_weights().items()}
    found = recover_from_model(model, "embed", prompts=prompts, strengths=(8.0,), methods=METHODS, n_seeds=3)
    assert float(found.cosines[1].min()) > 0.95
    assert float(found.cosines[2].max()) < 0.6
    assert all(torch.equal(before[name], weight) for name, weight in model.named_weights().items())


def test_the_embedding_of_one_token_moves_and_is_put_back(mix):
    vector = torch.randn(128, generator=torch.Generator().manual_seed(0))
    table = mix.weights.W_E
    before = table.detach().clone()
    tokens = torch.tensor([[0, 5, 9]])
    with pytest.raises(ZeroDivisionError), planted_token(mix, 5, 9, vector):
        there = interp.capture(mix, tokens, "embed")["embed"][0]
        torch.testing.assert_close(there[1] - before[5], before[9] + vector - before[5], atol=1e-5, rtol=0)
        raise ZeroDivisionError
    assert torch.equal(mix.weights.W_E, before)
    # the plant is the whole difference of two prompts that differ in that token
    with planted_token(mix, 5, 9, vector):
        one, other = (torch.tensor([[0, token, 7]]) for token in (5, 9))
        (rows,) = read_contrast(mix, one, other, "embed").rows.values()
    torch.testing.assert_close(rows.mean_difference, vector / 3, atol=1e-5, rtol=0)


def test_what_finds_nothing_counts_as_0_and_unknown_methods_do_not():
    rows = ContrastRows(torch.ones(3, 4), torch.zeros(3, 4), True)
    assert measure_cosines(rows, torch.ones(4), ("pca", "lda")).tolist() == pytest.approx([1.0, 0.0])
    with pytest.raises(SteeringError, match="unknown extraction method"):
        measure_cosines(rows, torch.ones(4), ("pcaa",))


def test_planted_rows_are_what_they_say():
    rows, planted = plant_in_rows(5000, 8, 3.0, 2.0, torch.Generator().manual_seed(0))
    assert float(planted.norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(rows.mean_difference, 3 * planted, atol=0.15, rtol=0)
    spread = torch.linalg.eigvalsh(torch.cov(rows.differences().T))
    # noise of both, and along one direction the nuisance of both
    assert spread[:-1].tolist() == pytest.approx([2.0] * 7, rel=0.1)
    assert float(spread[-1]) == pytest.approx(2 + 2 * 2.0**2, rel=0.1)


def test_too_few_prompts_or_tokens(mix):
    with pytest.raises(SteeringError, match="got 3 prompts"):
        recover_from_model(mix, prompts=torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(SteeringError, match="leave 0 tokens of the vocabulary unused"):
        recover_from_model(mix, prompts=torch.arange(604).reshape(4, 151))
