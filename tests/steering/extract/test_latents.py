"""Directions of latents chosen by label."""

from __future__ import annotations

import pytest
import torch
from random_coders import random_coder

import interp
from interp.coders.ground_truth.dictionary import LinearDictionary
from interp.coders.semi_nmf.dictionary import SemiNMF
from interp.errors import SteeringError
from interp.steering.contrast import ContrastRows, read_contrast
from interp.steering.extract.detection import roc_area
from interp.steering.extract.latents import choose_latents, extract_latents, latent_choice_of
from interp.steering.world import attribute_prompts


def make_latents(n: int = 20, d_sae: int = 9, d: int = 5, seed: int = 0) -> tuple[ContrastRows, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    positive = torch.randn(n, d_sae, generator=draw).relu() + torch.linspace(0, 1, d_sae)
    negative = torch.randn(n, d_sae, generator=draw).relu() + torch.linspace(0.6, 0, d_sae)
    return ContrastRows(positive, negative, False), torch.randn(d_sae, d, generator=draw)


@pytest.mark.parametrize("by", ["auc", "difference"])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_best_are_chosen_and_added_up(by, k):
    rows, decoder = make_latents()
    found = choose_latents(rows, decoder, k=k, by=by)
    x, labels = rows.stacked()
    area = roc_area(x, labels > 0).float()
    gap = rows.positive.mean(0) - rows.negative.mean(0)
    size = (area - 0.5).abs()
    if by == "difference":
        size = torch.stack([(g * row).norm() for g, row in zip(gap, decoder, strict=True)])
    wanted = sorted(range(9), key=lambda i: -float(size[i]))[:k]
    assert found.latents.tolist() == wanted
    torch.testing.assert_close(found.auc, area[wanted])
    torch.testing.assert_close(found.direction, sum(gap[i] * decoder[i] for i in wanted))
    # latents of the negative side are taken off
    assert (found.difference < 0).any() == (k > 1)


def test_all_latents_of_an_exact_dictionary_give_the_mean_difference():
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    # two latents a direction: one fires above 0, the other below
    both = torch.cat([basis, -basis])
    dictionary = LinearDictionary(both, both)
    x = torch.randn(30, 6, generator=draw)
    rows = ContrastRows(x[:15] + 1, x[15:], False)
    torch.testing.assert_close(dictionary.decode(dictionary.encode(x)), x, atol=1e-5, rtol=0)
    latents = ContrastRows(dictionary.encode(rows.positive), dictionary.encode(rows.negative), False)
    found = choose_latents(latents, dictionary.W_dec, k=12)
    torch.testing.assert_close(found.direction, rows.mean_difference, atol=1e-5, rtol=1e-5)


def test_latents_that_are_the_same_on_both_sides_are_not_chosen():
    rows, decoder = make_latents()
    rows.positive[:, 4], rows.negative[:, 4] = 1.0, 1.0
    decoder[7] = 0
    assert not {4, 7} & set(choose_latents(rows, decoder, k=9).latents.tolist())
    with pytest.raises(SteeringError, match="no latent differs"):
        choose_latents(ContrastRows(rows.positive, rows.positive, False), decoder, k=2)
    for k in (0, 10):
        with pytest.raises(SteeringError, match="k lies between 1 and 9"):
            choose_latents(rows, decoder, k=k)
    with pytest.raises(SteeringError, match="did you mean 'difference'"):
        choose_latents(rows, decoder, k=1, by="differences")


def test_a_steering_acts_where_the_coder_writes(make_hf_model, family):
    """Predict, then intervene: at strength 1 the site moves by the direction, everywhere."""
    model = interp.load_model(make_hf_model(family))
    draw = torch.Generator().manual_seed(0)
    positive, negative = torch.randint(53, (2, 6, 5), generator=draw)
    rows = torch.randn(7, 52, generator=draw)
    cases = {
        "mlp_out[1]": random_coder("transcoder", 36, sites=("mlp_in[1]",), targets=("mlp_out[1]",)),
        "resid_post[0]": random_coder("topk", 36, sites=("resid_post[0]",)),
        "mlp_post[1]": SemiNMF(rows / rows.norm(dim=1, keepdim=True), sites=("mlp_post[1]",)),
    }
    for site, coder in cases.items():
        steering = extract_latents(model, positive, negative, coder, k=3, calibrate=False)
        assert [str(step.site) for step in steering.steps] == [site]
        assert steering.method == ("semi-nmf" if site == "mlp_post[1]" else "coder-latents")
        contrast = read_contrast(model, positive, negative, "embed", coders={"c": coder})
        wanted = latent_choice_of(contrast, "c", k=3).direction
        torch.testing.assert_close(steering.direction(), wanted)
        with torch.no_grad():
            before = interp.capture(model, positive, site)[site]
            with steering.apply(model, strength=1.0):
                after = interp.capture(model, positive, site)[site]
        torch.testing.assert_close(after - before, wanted.expand_as(before), atol=1e-4, rtol=1e-4)


def test_bundled_latents_know_an_attribute_better_than_the_mean_of_everything(mix):
    """The coder leaves out what prompts differ in besides the attribute."""
    sides = attribute_prompts("sentiment", 64)
    coder = interp.load_coder("mix-4l/resid_post-2-topk")
    contrast = read_contrast(mix, *sides.values(), "resid_post[2]", coders={"c": coder})
    test = attribute_prompts("sentiment", 64, seed=1)
    other = read_contrast(mix, *test.values(), "resid_post[2]").at("resid_post[2]")
    x, labels = other.stacked()
    plain = contrast.at("resid_post[2]").mean_difference
    chosen = latent_choice_of(contrast, "c", k=10).direction
    found = roc_area(torch.stack([x @ plain, x @ chosen], dim=1), labels > 0)
    assert float(found[1]) > 0.95
    assert float(found[1]) > float(found[0])
