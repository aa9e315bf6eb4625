"""Layer-wise maps: what each is fitted to, alone and under the earlier ones, and what they do together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_transport import naive_pooled, random_rows
from tiny_models import FAMILIES, make_hf_model

import interp
from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.learn import fit_layerwise_maps
from interp.steering.learn.layerwise import MAP_KINDS
from interp.steering.learn.transport import fit_gaussian, fit_scale, fit_sorted_line
from interp.steering.operations import AffineMap
from interp.types import parse_site

SOURCE, TARGET = random_rows(1, 6), random_rows(2, 5)
BOTH = [parse_site("resid_post[0]"), parse_site("resid_post[1]")]


def tiny(family: str = "gpt2") -> Model:
    return interp.load_model(make_hf_model(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["shift", "scale"])
def test_under_sequential_maps_every_site_has_the_targets_mean(family: str, kind: Any) -> None:
    model = tiny(family)
    steering = fit_layerwise_maps(model, SOURCE, TARGET, "resid_post", kind)
    goal = naive_pooled(model, TARGET, BOTH)
    with steering.apply(model, strength=1.0):
        after = naive_pooled(model, SOURCE, BOTH)
    for site in BOTH:
        torch.testing.assert_close(after[site].mean(0), goal[site].mean(0), rtol=1e-3, atol=1e-3)
        if kind == "scale":
            spread, wanted = (side[site].std(0, correction=0) for side in (after, goal))
            torch.testing.assert_close(spread, wanted, rtol=1e-3, atol=1e-3)


def test_independent_maps_are_fitted_to_the_unsteered_model_and_compound() -> None:
    model = tiny()
    steering = fit_layerwise_maps(model, SOURCE, TARGET, "resid_post", "shift", sequential=False)
    before, goal = naive_pooled(model, SOURCE, BOTH), naive_pooled(model, TARGET, BOTH)
    for step in steering.steps:
        assert isinstance(step.operation, AffineMap)
        expected = (goal[step.site].mean(0) - before[step.site].mean(0)).float()
        torch.testing.assert_close(step.operation.bias, expected, rtol=1e-4, atol=1e-4)
    with steering.apply(model, strength=1.0):
        after = naive_pooled(model, SOURCE, BOTH)
    left = [float((after[site].mean(0) - goal[site].mean(0)).norm()) for site in BOTH]
    assert left[0] < 1e-3 < 0.1 < left[1]


@pytest.mark.parametrize(
    ("kind", "fit"),
    [
        ("sorted-line", fit_sorted_line),
        ("scale", fit_scale),
        ("gaussian", lambda x, y: fit_gaussian(x, y, 0.3)),
    ],
)
@pytest.mark.parametrize("sequential", [False, True])
def test_the_second_map_is_fitted_under_the_first_only_if_sequential(
    kind: Any, fit: Any, sequential: bool
) -> None:
    model = tiny()
    steering = fit_layerwise_maps(
        model, SOURCE, TARGET, "resid_post", kind, sequential=sequential, shrinkage=0.3
    )
    goal = naive_pooled(model, TARGET, BOTH)
    first = steering.steps[0].operation
    maps = {BOTH[0]: lambda h: first.change(h, 1.0)} if sequential else {}
    before = naive_pooled(model, SOURCE, BOTH, maps)
    expected = fit(before[BOTH[1]], goal[BOTH[1]])
    found = steering.steps[1].operation
    torch.testing.assert_close(found.weight.double(), expected.weight, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.bias.double(), expected.bias, rtol=2e-3, atol=5e-3)


def test_sites_are_fitted_in_the_order_of_the_forward() -> None:
    model = tiny()
    given = ["resid_post[1]", "resid_post[0]", "attn_out[1]", "mlp_out[1]"]
    steering = fit_layerwise_maps(model, SOURCE, TARGET, given, "shift")
    order = [str(step.site) for step in steering.steps]
    assert order == ["resid_post[0]", "attn_out[1]", "mlp_out[1]", "resid_post[1]"]
    goal = naive_pooled(model, TARGET, [step.site for step in steering.steps])
    with steering.apply(model, strength=1.0):
        after = naive_pooled(model, SOURCE, list(goal))
    for site, wanted in goal.items():
        torch.testing.assert_close(after[site].mean(0), wanted.mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", MAP_KINDS)
def test_a_file_gives_the_same_logits(kind: Any, tmp_path: Any) -> None:
    model, tokens = tiny("llama"), torch.tensor([SOURCE[0]])
    steering = fit_layerwise_maps(model, SOURCE, TARGET, ["z[0]", "embed"], kind)
    read = interp.steering.load_steering(steering.save(tmp_path / "maps.safetensors"))
    logits = []
    for one in (steering, read):
        with one.apply(model, strength=0.7):
            logits.append(model(tokens))
    assert torch.equal(*logits)
    assert read.method == steering.method and kind in steering.method


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SteeringError, match="gaussian"):
        fit_layerwise_maps(tiny(), SOURCE, TARGET, "resid_post", "gauss")  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="got 1 target"):
        fit_layerwise_maps(tiny(), SOURCE, TARGET[:1], "resid_post")
