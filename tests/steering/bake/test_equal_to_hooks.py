"""Baked equals hooked, for every kind of model; where weights cannot say it, they are refused or the gap is there."""

from __future__ import annotations

import pytest
import torch
from model_zoo import HOOKED, NAMES, specimen

import interp
from interp.errors import InterpError, SteeringError
from interp.steering.bake import Baked, bake_bias, bake_orthogonal, project_writes
from interp.steering.operations import Add, Clamp
from interp.steering.places import TextPattern
from interp.steering.steering import Steering, Step, steer_with
from interp.types import Site

EVERY = [pytest.param(name, marks=pytest.mark.hooked_transformer if name in HOOKED else ()) for name in NAMES]
PLACES = ("embed", "resid_pre[0]", "resid_pre[1]", "resid_mid[0]", "resid_post[0]", "resid_post[1]", "attn_out[1]",
          "mlp_out[0]", "z[1]", "z[0.2]", "mlp_post[1]")  # fmt: skip
POST_NORM = ("resid_pre[1]", "resid_mid[0]", "resid_post[0]", "resid_post[1]", "attn_out[1]", "mlp_out[0]")


def width(model, place: str) -> int:
    traits = model.traits
    if place.startswith("z"):
        return traits.d_head * (1 if "." in place else traits.n_heads)
    return traits.d_mlp if place.startswith("mlp_post") else traits.d_model


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts(model) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, model.traits.d_vocab, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :4] = False
    return tokens, mask


def run(model) -> torch.Tensor:
    tokens, mask = prompts(model)
    with torch.no_grad():
        logits = model(tokens, mask)
    return torch.where(mask[..., None], logits, 0)


@pytest.mark.parametrize("name", EVERY)
def test_a_bias_is_the_same_as_adding_by_hooks(name: str) -> None:
    model = specimen(name).model
    before, baked_places = run(model), []
    for number, place in enumerate(PLACES):
        try:
            site = interp.parse_site(place)
            wanted = width(model, place)
            steering = steer_with({place: Add(draw(wanted, seed=number))}) if wanted else None
            if steering is None:
                continue
            baked = bake_bias(model, steering, strength=0.7, untie=True)
        except InterpError:
            assert site.component not in model.components or (model.traits.post_norms and place in POST_NORM)
            continue
        with steering.apply(model, strength=0.7):
            hooked = run(model)
        with baked.installed(model):
            found = run(model)
        assert (hooked - before).abs().max() > 0.05, place
        torch.testing.assert_close(
            found, hooked, atol=3e-5, rtol=1e-4, msg=lambda m, place=place: f"{place}: {m}"
        )
        assert baked.exact
        baked_places.append(place)
    assert torch.equal(run(model), before)
    assert {"resid_pre[0]", "z[1]", "z[0.2]"} <= set(baked_places)
    assert model.traits.post_norms or "resid_post[1]" in baked_places


@pytest.mark.parametrize("name", EVERY)
def test_orthogonal_weights_are_the_same_as_projecting_every_write(name: str) -> None:
    model = specimen(name).model
    before = run(model)
    for k in (1, 3):
        directions = draw(k, model.traits.d_model)
        baked = bake_orthogonal(model, directions if k > 1 else directions[0], untie=True)
        hooks = project_writes(model, directions)
        with hooks.apply(model, strength=1.0):
            hooked = run(model)
        with baked.installed(model):
            found = run(model)
            tokens, mask = prompts(model)
            resid = interp.capture(model, tokens, ["resid_post"], attention_mask=mask)["resid_post"]
        # nothing along the directions is ever written, whatever stands in between
        along = (resid @ directions.T).abs().amax((0, 3))
        assert along[mask].max() < 1e-3 * resid.abs().max() and (hooked - before).abs().max() > 0.05
        assert baked.exact is not model.traits.post_norms
        gap = (found - hooked).abs().max()
        if baked.exact:
            torch.testing.assert_close(found, hooked, atol=1e-4, rtol=1e-4)
        else:
            # the norm after the map divides by less: not the same, and said so
            assert gap > 1e-3
    assert torch.equal(run(model), before)


def test_several_steps_and_weights_add_up() -> None:
    model = specimen("llama").model
    d = model.traits.d_model
    steps = [
        Step(Site("resid_post", 0), Add(draw(d)), weight=0.5),
        Step(Site("mlp_out", 0), Add(draw(d, seed=1))),
    ]
    steering = Steering((*steps, Step(Site("attn_out", 1), Add(draw(d, seed=2)), weight=-2.0)))
    baked = bake_bias(model, steering, strength=0.3)
    with steering.apply(model, strength=0.3):
        hooked = run(model)
    with baked.installed(model):
        torch.testing.assert_close(run(model), hooked, atol=2e-5, rtol=1e-4)
        # what else reads weights sees them too
        assert model.weights.layers[0].b_out is not None and model.weights.layers[1].b_O is not None
    assert model.weights.layers[0].b_out is None


def test_generation_is_steered_cached_and_uncached() -> None:
    model = specimen("qwen3").model
    steering = steer_with({"resid_post[0]": Add(draw(model.traits.d_model) * 2)})
    tokens, mask = prompts(model)
    with steering.apply(model, strength=1.0):
        hooked = model.generate(tokens, 6, mask)
    with bake_bias(model, steering, strength=1.0).installed(model):
        for use_cache in (True, False):
            assert torch.equal(model.generate(tokens, 6, mask, use_cache=use_cache), hooked)


def test_what_no_bias_can_say_is_refused() -> None:
    model = specimen("gpt2").model
    vector = draw(model.traits.d_model)
    plain = steer_with({"resid_post[0]": Add(vector)})
    for steering, said in (
        (steer_with({"resid_post[0]": Clamp(vector, 1.0)}), "bake_orthogonal bakes projections"),
        (plain.at("gen"), "acts on some tokens only"),
        (plain.narrowed(TextPattern("a")), "weights act everywhere"),
        (steer_with({"q[0]": Add(draw(model.traits.n_heads * model.traits.d_head))}), "no bias of q"),
        (steer_with({"mlp_out[0]": Add(draw(7))}), "7 entries"),
        (steer_with({"resid_post[5]": Add(vector)}), "2 layers"),
    ):
        with pytest.raises(SteeringError, match=said):
            bake_bias(model, steering, strength=1.0)
    with pytest.raises(SteeringError, match="one of dose and strength"):
        bake_bias(model, plain)
    with pytest.raises(SteeringError, match="strength is finite"):
        bake_bias(model, plain, strength=float("nan"))
    with pytest.raises(SteeringError, match="has no dose"):
        bake_bias(model, plain, dose=0.5)
    with pytest.raises(SteeringError, match="other weights"):
        bake_bias(model, Steering(plain.steps, model_digest="0"), strength=1.0)
    gemma = specimen("gemma2").model
    with pytest.raises(SteeringError, match=r"norm that has no bias .* take z or mlp_post"):
        bake_bias(gemma, steer_with({"resid_post[0]": Add(draw(gemma.traits.d_model))}), strength=1.0)


def test_a_tied_table_is_not_changed_unasked() -> None:
    model = specimen("gemma2").model
    assert model.traits.tied_embeddings
    vector = draw(model.traits.d_model)
    with pytest.raises(SteeringError, match="untie=True"):
        bake_bias(model, steer_with({"resid_pre[0]": Add(vector)}), strength=1.0)
    with pytest.raises(SteeringError, match="untie=True"):
        bake_orthogonal(model, vector)


def test_bad_directions_are_refused() -> None:
    model = specimen("llama").model
    for bad in (draw(7), draw(2, 2, model.traits.d_model)):
        with pytest.raises(SteeringError, match="d_model"):
            bake_orthogonal(model, bad)
    with pytest.raises(InterpError):
        bake_orthogonal(model, torch.zeros(model.traits.d_model))


def test_weights_go_into_the_model_they_were_made_for() -> None:
    model, other = specimen("llama").model, specimen("qwen3_biased").model
    baked = bake_bias(model, steer_with({"mlp_out[0]": Add(draw(model.traits.d_model))}), strength=1.0)
    assert isinstance(baked, Baked) and "strength 1" in repr(baked)
    with pytest.raises(SteeringError, match="other weights"), baked.installed(other):
        pass
    # and not twice, one on the other
    with baked.installed(model), pytest.raises(SteeringError, match="other weights"), baked.installed(model):
        pass
