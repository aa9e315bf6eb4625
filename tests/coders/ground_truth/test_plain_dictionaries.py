"""Dictionaries that nobody trained, put into a model like any coder."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen

import interp
from interp.coders.ground_truth import LinearDictionary, random_dictionary


def test_a_whole_basis_costs_the_model_nothing_and_part_of_it_something() -> None:
    model = specimen("llama").model
    tokens = torch.randint(1, 53, (6, 9), generator=torch.Generator().manual_seed(2))
    site = "mlp_out[1]"
    x = interp.capture(model, tokens, site)[site][:, 1:].flatten(0, 1).detach()
    axes = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
    fvu = []
    for n in (len(axes), 3):
        ways = torch.cat([axes[:n], -axes[:n]])
        basis = LinearDictionary(ways, ways, -ways @ x.mean(0), x.mean(0))
        found = interp.evaluate_coder(model, {site: basis}, tokens, progress=False)
        fvu.append(found.fits[0].fvu)
        if n == len(axes):
            assert found.ce_recovered.value == pytest.approx(1, abs=1e-3)
    spectrum = torch.linalg.svdvals(x - x.mean(0)).square()
    assert fvu[0] < 1e-9
    assert fvu[1] == pytest.approx(float(spectrum[3:].sum() / spectrum.sum()), rel=1e-3)


def test_random_directions_of_activations_that_carry_gradients() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
    plain, followed = (
        random_dictionary(rows, 7, 2, torch.Generator().manual_seed(0))
        for rows in (x, x.clone().requires_grad_())
    )
    assert torch.equal(plain.W_enc, followed.W_enc) and not followed.W_enc.requires_grad
