"""Latents that fire because a sequence repeats: of coders made by hand, and of trained ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp.coders.induction_latents import _draw
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.errors import CoderError
from interp.tasks import generate_tokens


def hand_made(model: interp.models.model.Model, directions: Tensor) -> interp.Coder:
    config = interp.CoderConfig("standard", d_sae=len(directions))
    d = model.traits.n_heads * model.traits.d_head
    coder = make_coder(config, CoderShape(d, d), sites=("z[1]",)).eval()
    with torch.no_grad():
        coder.W_enc.copy_(directions)
        coder.b_enc.zero_()
        coder.b_dec.zero_()
    return coder


def test_only_what_the_first_copy_changes_is_told() -> None:
    """The mean shift of z by a repetition is told from the same tokens without one; noise is not."""
    model = interp.load_model("induction-2l")
    d = model.traits.n_heads * model.traits.d_head
    coder = hand_made(model, torch.randn(6, d, generator=torch.Generator().manual_seed(0)))
    before = interp.score_induction_latents(coder, model, n=8, progress=False)
    seen = interp.score_induction_latents(coder, model, n=8, seed=5, progress=False)
    assert not torch.equal(before.repeated_mean, seen.repeated_mean)
    # the direction between the two kinds of token, found on other sequences
    repeated, control, first = _draw(model, 16, 25, 9)
    assert torch.equal(repeated[:, first - 1 :], control[:, first - 1 :])
    assert torch.equal(repeated[:, 1:26], repeated[:, 26:]) and not torch.equal(
        control[:, 1:26], repeated[:, 1:26]
    )
    z = [
        interp.capture(model, tokens, "z[1]")["z[1]"][:, first:].flatten(2).flatten(0, 1)
        for tokens in (repeated, control)
    ]
    direction = z[0].mean(0) - z[1].mean(0)
    aimed = hand_made(model, torch.stack([direction, -direction]))
    with torch.no_grad():
        aimed.b_enc.copy_(-(aimed.W_enc @ (z[0].mean(0) + z[1].mean(0)) / 2))
    found = interp.score_induction_latents(aimed, model, n=16, seed=1, progress=False)
    assert found.selectivity[0] > 0.75 > 0.25 > found.selectivity[1]
    assert found.top(1) == (0,) and found.count() == 1 and "latent 0" in found.summary()
    assert found.n_tokens == 16 * 24 and len(found.to_frame()) == 2


def test_a_trained_coder_has_such_latents_and_they_copy() -> None:
    """Where they fire on a repetition, they write for the token that came next the first time."""
    model = interp.load_model("induction-2l")
    rows = interp.stream_activations(model, generate_tokens(600, 64, seed=7), "z[1]", batch_size=32)
    config = interp.CoderConfig("topk", d_sae=256, k=8)
    coder = interp.train_coder(
        config, rows, tokens=120_000, batch_size=512, learning_rate=2e-3, progress=False
    )
    found = interp.score_induction_latents(coder, model, n=48, progress=False)
    assert found.count() >= 8 and found.count(0.25) > 3 * found.count()
    repeated, _, first = _draw(model, 48, 25, 1)
    z = interp.capture(model, repeated, "z[1]", unembed=False)["z[1]"][:, first:-1].flatten(2).flatten(0, 1)
    following = repeated[:, first + 1 :].flatten()
    written = coder.W_dec.detach() @ model.weights.layers[1].W_O.flatten(0, 1) @ model.weights.W_U
    latents = coder.encode(z)
    ranks = []
    for latent in found.top(8):
        fires = latents[:, latent] > 0
        order = written[latent].argsort(descending=True).argsort()
        ranks.append(float(order[following[fires]].float().median()))
    # chance would be half of the vocabulary
    assert sorted(ranks)[4] < 0.1 * model.traits.d_vocab, ranks


def test_what_cannot_be_asked() -> None:
    model = interp.load_model("induction-2l")
    coder = hand_made(model, torch.randn(3, model.traits.n_heads * model.traits.d_head))
    for wrong in ({"n": 0}, {"seq_len": 1}, {"seq_len": 1000}):
        with pytest.raises(CoderError, match="two sequences within a context"):
            interp.score_induction_latents(coder, model, progress=False, **wrong)
