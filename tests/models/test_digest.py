"""Digests of weights: the same model, whatever its precision or hooks; another after a step of training."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, make_hf_model

import interp
from interp.models.digest import _spaced, digest_weights


@pytest.mark.parametrize("family", FAMILIES)
def test_it_tells_weights_apart_and_nothing_else(family: str):
    model = interp.load_model(make_hf_model(family))
    found = digest_weights(model)
    assert found == digest_weights(model) == digest_weights(interp.load_model(make_hf_model(family)))
    assert len(found) == 24
    with interp.intervene(model, interp.zero("resid_post[0]")):
        model(torch.arange(4)[None])
        assert digest_weights(model) == found
    assert digest_weights(interp.load_model(make_hf_model(family, seed=1))) != found
    with torch.no_grad():
        next(iter(model.named_weights().values())).mul_(1.01)
    assert digest_weights(model) != found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_counts(family: str):
    """Each small enough to be read whole, so that one changed entry of any is seen."""
    model = interp.load_model(make_hf_model(family))
    found = {digest_weights(model)}
    parameters = list(model.parameters())
    for parameter in parameters:
        at = tuple(size - 1 for size in parameter.shape)
        with torch.no_grad():
            before = parameter[at].clone()
            parameter[at] += 1.0
            found.add(digest_weights(model))
            parameter[at] = before
    assert len(found) == len(parameters) + 1


def test_large_weights_are_read_at_even_steps():
    large = torch.arange(3 * 5000).reshape(3, 5000)
    found = _spaced(large)
    assert found.tolist() == list(range(0, 15000, 4))
    assert _spaced(large.T).tolist() == large.T.reshape(-1)[::4].tolist()


def test_the_names_of_the_wrapped_module_do_not_count(monkeypatch):
    model = interp.load_model(make_hf_model("gpt2"))
    before = digest_weights(model)
    monkeypatch.setattr(model, "named_weights", dict)
    assert digest_weights(model) == before


def test_other_precisions_have_the_same():
    wide, half = (
        interp.load_model(make_hf_model("llama", dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert digest_weights(wide) == digest_weights(half)
    assert digest_weights(interp.load_model(make_hf_model("llama", dtype=torch.float64))) == digest_weights(
        wide
    )


def test_families_of_equal_sizes_differ():
    found = {digest_weights(interp.load_model(make_hf_model(family))) for family in FAMILIES}
    assert len(found) == len(FAMILIES)
