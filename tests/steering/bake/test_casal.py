"""CASAL: targets by hand, what is trained and what is left alone, on every family."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen
from tiny_models import FAMILIES

import interp
from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.steering.bake import CasalConfig, fit_casal
from interp.steering.bake.casal import _ends

KNOWN_LENGTH, UNKNOWN_LENGTH = 6, 7


def sides(model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    known = torch.randint(0, model.traits.d_vocab, (12, KNOWN_LENGTH), generator=generator)
    unknown = torch.randint(0, model.traits.d_vocab, (12, UNKNOWN_LENGTH), generator=generator)
    return known, unknown, torch.randn(model.traits.d_model, generator=generator)


def ends(model, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    site = f"resid_post[{layer}]"
    with torch.no_grad():
        return interp.capture(model, tokens, [site])[site][:, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_move_to_their_targets_and_the_model_comes_back(family: str) -> None:
    model = specimen(family).model
    known, unknown, vector = sides(model)
    weights = {name: value.detach().clone() for name, value in model.named_weights().items()}
    before = ends(model, known, 1), ends(model, unknown, 1)
    needs = {name: p.requires_grad for name, p in model.named_weights().items()}
    state = torch.get_rng_state()
    config = CasalConfig(1, "mlp", amount=0.5, known="away", steps=60, learning_rate=1e-2)
    baked = fit_casal(model, known, unknown, vector, config)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.named_weights().items())
    assert needs == {name: p.requires_grad for name, p in model.named_weights().items()}
    assert all(p.grad is None for p in model.parameters())
    with baked.installed(model):
        after = ends(model, known, 1), ends(model, unknown, 1)
        changed = {
            name for name, value in model.named_weights().items() if not torch.equal(weights[name], value)
        }
    for was, now, sign, side in zip(before, after, (-1, 1), ("known", "unknown"), strict=True):
        target = was + sign * 0.5 * vector
        by_hand = float((now - target).square().sum(-1).mean())
        assert baked.figures[f"{side} after"] == pytest.approx(by_hand, rel=1e-3, abs=1e-5)
        assert baked.figures[f"{side} before"] == pytest.approx(
            float((0.5 * vector).square().sum()), rel=1e-4
        )
        assert by_hand < 0.7 * baked.figures[f"{side} before"]
    # one layer's MLP and nothing else
    assert changed and all(".1." in name and "mlp" in name for name in changed)
    assert not baked.exact


PARTS = {"W_O": ("attn.o", "o_proj"), "W_in": ("gate", "up", "in"), "W_out": ("down", "out")}


@pytest.mark.parametrize(("part", "words"), PARTS.items())
def test_only_the_named_part_is_trained(part: str, words: tuple[str, ...]) -> None:
    model = specimen("llama").model
    known, unknown, vector = sides(model)
    baked = fit_casal(model, known, unknown, vector, CasalConfig(0, part, steps=3))
    assert baked.edits.names and all(any(word in name for word in words) for name in baked.edits.names)
    assert all(".0." in name for name in baked.edits.names)
    assert len(baked.edits.names) == (2 if part == "W_in" else 1)


def test_prompts_of_unequal_length_end_where_they_end() -> None:
    model = specimen("gpt2").model
    known, unknown, _ = sides(model)
    # padding that no prompt ends in
    tokens = torch.full((2, UNKNOWN_LENGTH), 17)
    assert int(known[0, -1]) != 17
    tokens[0], tokens[1, :KNOWN_LENGTH] = unknown[0], known[0]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, -1] = False
    with torch.no_grad():
        found = _ends(model, tokens, mask, 1)
    torch.testing.assert_close(found[0], ends(model, unknown[:1], 1)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], ends(model, known[:1], 1)[0], atol=1e-5, rtol=1e-4)


def test_a_seed_fixes_the_fit() -> None:
    model = specimen("llama").model
    known, unknown, vector = sides(model)
    values = []
    for seed in (0, 0, 1):
        with torch.no_grad():  # trains all the same
            baked = fit_casal(
                model, known, unknown, vector, CasalConfig(1, "W_O", steps=3, batch_size=4, seed=seed)
            )
        values.append(next(iter(baked.edits.values.values())))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_bad_requests_are_refused() -> None:
    model, attention_only = specimen("llama").model, specimen("attention_only").model
    known, unknown, vector = sides(model)
    for options, said in (
        (dict(layer=0, submodule="W_Q"), "submodule"),
        (dict(layer=0, known="stay"), "known prompts"),
        (dict(layer=0, steps=0), "steps at least 1"),
        (dict(layer=-1), "layer must be 0"),
        (dict(layer=0, learning_rate=float("inf")), "learning rate above 0"),
        (dict(layer=0, amount=0.0), "amount is finite and not 0"),
        (dict(layer=0, amount=float("nan")), "amount is finite and not 0"),
    ):
        with pytest.raises(SteeringError, match=said):
            CasalConfig(**options)
    with pytest.raises(SteeringError, match=r"layers 0\.\.1"):
        fit_casal(model, known, unknown, vector, CasalConfig(2))
    for bad in (vector[:-1], torch.zeros_like(vector), vector * torch.nan):
        with pytest.raises(SteeringError, match="one finite direction"):
            fit_casal(model, known, unknown, bad, CasalConfig(0))
    with pytest.raises(SteeringError, match="no known prompts"):
        fit_casal(model, [], unknown, vector, CasalConfig(0))
    with pytest.raises(SteeringError, match="attention-only"):
        fit_casal(attention_only, known, unknown, torch.ones(attention_only.traits.d_model), CasalConfig(0))


def test_training_that_runs_away_is_refused_and_the_model_comes_back() -> None:
    model = specimen("llama").model
    known, unknown, vector = sides(model)
    before = digest_weights(model)
    with pytest.raises(SteeringError, match="not finite; take a smaller learning rate"):
        fit_casal(model, known, unknown, vector, CasalConfig(0, steps=3, learning_rate=1e30))
    assert digest_weights(model) == before
