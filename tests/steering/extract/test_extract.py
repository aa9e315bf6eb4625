"""From prompts to a steering in one call: what the promised surface does."""

from __future__ import annotations

import pytest
import torch
from random_coders import random_coder
from tiny_models import FAMILIES, make_hf_model

import interp
from interp.errors import SteeringError
from interp.steering.contrast import read_contrast
from interp.steering.dose import measure_kl
from interp.steering.extract.extract import neutral_of
from interp.steering.extract.latents import extract_latents
from interp.steering.operations import ProjectOut
from interp.steering.world import attribute_token_ids, contrast_prompts


def prompts(seed: int, n: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 9, (n,), generator=generator).tolist()
    return [torch.randint(1, 53, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dose_is_the_kl_on_the_prompts_of_a_model_with_words_of_its_own(family):
    model = interp.load_model(make_hf_model(family))
    positive, negative = prompts(1), prompts(2)
    vector = interp.extract_steering(model, positive, negative, site="resid_post[0]", max_dose=0.5)
    rows = read_contrast(model, positive, negative, "resid_post[0]").at("resid_post[0]")
    assert torch.equal(vector.direction(), rows.mean_difference)
    assert vector.calibration is not None and "own prompts" in vector.calibration.text
    assert {"auc", "stability"} == set(vector.figures)
    text = neutral_of(model, positive, negative)
    for dose in (0.2, -0.2):
        found = measure_kl(model, vector, [vector.strength_for(dose)], text).mean
        assert float(found) == pytest.approx(0.2, rel=0.1)
    tokens = positive[0][None]
    with vector.apply(model, dose=0.2):
        steered = model(tokens)
    strength = vector.strength_for(0.2)
    with interp.intervene(model, interp.add("resid_post[0]", strength * vector.direction())):
        assert torch.allclose(steered, model(tokens), atol=1e-4)


def test_prompts_that_can_be_read_once_are_as_good_as_lists():
    model = interp.load_model(make_hf_model("llama"))
    positive, negative = prompts(1), prompts(2)
    listed = interp.extract_steering(model, positive, negative, "resid_post[0]", paired=False)
    once = interp.extract_steering(model, iter(positive), iter(negative), "resid_post[0]", paired=False)
    assert torch.equal(listed.direction(), once.direction())
    assert torch.equal(listed.calibration.kl, once.calibration.kl)
    assert listed.data == once.data
    options = dict(k=2, max_dose=0.1)
    experts = [interp.extract_experts(model, *sides, **options) for sides in both_ways(positive, negative)]
    coder = random_coder("topk", 36, sites=("resid_post[0]",))
    latents = [extract_latents(model, *sides, coder, **options) for sides in both_ways(positive, negative)]
    for one, other in (experts, latents):
        assert one.data == other.data and torch.equal(one.calibration.kl, other.calibration.kl)


def both_ways(positive, negative):
    return (positive, negative), (iter(positive), iter(negative))


def test_layers_positions_and_operations_are_as_asked():
    model = interp.load_model(make_hf_model("gpt2", n_layers=3))
    several = interp.extract_steering(
        model, prompts(1), prompts(2), "resid_post[0,2]@-1", at=("gen", -1), operation="project-out"
    )
    assert [str(step.site) for step in several.steps] == ["resid_post[0]@gen,-1", "resid_post[2]@gen,-1"]
    assert all(isinstance(step.operation, ProjectOut) for step in several.steps)
    assert set(several.figures) == {
        f"{name} resid_post[{layer}]" for name in ("auc", "stability") for layer in (0, 2)
    }
    last = read_contrast(model, prompts(1), prompts(2), "resid_post[2]@-1").at("resid_post[2]")
    unit = last.mean_difference / last.mean_difference.norm()
    assert torch.allclose(several.direction("resid_post[2]").abs(), unit.abs(), atol=1e-5)


@pytest.mark.parametrize("target", ["sentiment=positive", "formality=formal"])
def test_on_the_bundled_model_it_raises_the_words_it_was_extracted_for(mix, target):
    vector = interp.extract_steering(mix, *contrast_prompts(target, 64), site="resid_post[1]")
    attribute, value = target.split("=")
    words = attribute_token_ids(mix, attribute)
    _, others = contrast_prompts(target, 12, seed=9, sentences=1)

    def share() -> float:
        tokens, mask = mix.to_padded_tokens(others)
        with torch.no_grad():
            chances = mix(tokens, mask).softmax(-1)
        mass = {name: float(chances[..., ids].sum()) for name, ids in words.items()}
        return mass[value] / sum(mass.values())

    base = share()
    with vector.apply(mix, dose=0.2):
        more = share()
    with vector.apply(mix, dose=-0.2):
        less = share()
    assert less < base < 0.5 < more


def test_bad_requests():
    model = interp.load_model(make_hf_model("qwen3"))
    positive, negative = prompts(1), prompts(2)
    for options, message in (
        ({"method": "mean-diference"}, "did you mean 'mean-difference'"),
        ({"operation": "multiply"}, "a direction can be used to"),
        ({"max_dose": 0.0}, "max_dose must be above 0"),
    ):
        with pytest.raises(SteeringError, match=message):
            interp.extract_steering(model, positive, negative, "resid_post[0]", **options)
    with pytest.raises(SteeringError, match="same mean activation"):
        interp.extract_steering(model, positive, positive, "resid_post[0]", judge=False)
    with pytest.raises(SteeringError, match="there are no negative prompts"):
        interp.extract_steering(model, positive, [], "resid_post[0]")
    vector = interp.extract_steering(model, positive, negative, "resid_post[0]", calibrate=False)
    with pytest.raises(SteeringError, match="has no dose"), vector.apply(model, dose=0.1):
        pass
    with pytest.raises(SteeringError, match="one of both"), vector.apply(model):
        pass
