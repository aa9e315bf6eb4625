"""EigenShift: against the sum written out, planted components, and what is refused."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen

import interp
from interp.errors import SteeringError
from interp.models.norms import apply_norm
from interp.steering.bake import edit_spectrum

NAMES = ("llama", "gpt_neox", "gemma2", "plain", "gpt2")


def rows(model, n: int = 24, length: int = 10) -> torch.Tensor:
    return torch.randint(0, model.traits.d_vocab, (n, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
def test_against_the_sum_written_out(name: str) -> None:
    model, concept = specimen(name).model, {3, 5, 8}
    text = rows(model)
    baked = edit_spectrum(model, text, concept, k=2, scale=0.25, untie=True)
    W = model.weights.W_U.T.double()
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    last = f"resid_post[{model.traits.n_layers - 1}]"
    with torch.no_grad():
        h = apply_norm(
            interp.capture(model, text, [last])[last], model.weights.ln_final, model.traits
        ).double()
    before, elsewhere = [], []
    for row in range(len(text)):
        for column in range(text.shape[1] - 1):
            (before if int(text[row, column + 1]) in concept else elsewhere).append(Vt @ h[row, column])
    scores = torch.stack(before).mean(0) - torch.stack(elsewhere).mean(0)
    scaled = S.clone()
    scaled[scores.abs().topk(2).indices] *= 0.25
    with baked.installed(model), torch.no_grad():
        torch.testing.assert_close(model.weights.W_U.T.double(), U @ scaled.diag() @ Vt, atol=1e-5, rtol=1e-4)
        # the transpose minded: what the model says is the new matrix on the old stream
        logits = model(text)
        again = apply_norm(interp.capture(model, text, [last])[last], model.weights.ln_final, model.traits)
        assert torch.equal(again.double(), h)
        if model.traits.final_soft_cap is None and model.weights.b_U is None:
            torch.testing.assert_close(logits.double(), h @ (U @ scaled.diag() @ Vt).T, atol=1e-4, rtol=1e-4)
    assert baked.figures["about to emit"] == len(before) and baked.figures["elsewhere"] == len(elsewhere)
    assert 0 < baked.figures["share of score"] <= 1 and not baked.exact


def test_all_components_unscaled_are_the_model_itself() -> None:
    model = specimen("llama").model
    text = rows(model)
    with torch.no_grad():
        before = model(text)
    with edit_spectrum(model, text, {3}, k=model.traits.d_model, scale=1.0).installed(model), torch.no_grad():
        assert torch.equal(model(text), before)
    with edit_spectrum(model, text, {3}, k=model.traits.d_model, scale=0.0).installed(model), torch.no_grad():
        torch.testing.assert_close(model(text), torch.zeros_like(before), atol=1e-4, rtol=0)


def test_damping_lowers_the_concept_on_the_bundled_model() -> None:
    from interp.steering.world import attribute_prompts, attribute_token_ids

    model = interp.load_model("mix-4l")
    prompts = attribute_prompts("sentiment", 64, 0)
    words = attribute_token_ids(model, "sentiment")["negative"]
    text = [one for side in prompts.values() for one in side]
    held_out = [one for side in attribute_prompts("sentiment", 32, 7).values() for one in side]
    tokens, mask = model.to_padded_tokens(held_out)

    def mass() -> float:
        with torch.no_grad():
            chances = model(tokens, mask).softmax(-1)[..., list(words)].sum(-1)
        return float(chances[:, :-1].mean() if mask is None else chances[mask].mean())

    before = mass()
    after = []
    for scale in (0.5, 0.0):
        with edit_spectrum(model, text, words, k=8, scale=scale).installed(model):
            after.append(mass())
    assert after[1] < after[0] < before


def test_bad_requests_are_refused() -> None:
    model, tied = specimen("llama").model, specimen("gemma2").model
    text = rows(model)
    for options, said in (
        ({"concept": {99}}, "token ids in 0"),
        ({"concept": set()}, "token ids"),
        ({"concept": {3}, "k": 0}, "k must lie in"),
        ({"concept": {3}, "k": 99}, "k must lie in"),
        ({"concept": {3}, "scale": float("nan")}, "scale is finite"),
    ):
        with pytest.raises(SteeringError, match=said):
            edit_spectrum(model, text, **options)
    with pytest.raises(SteeringError, match="untie=True"):
        edit_spectrum(tied, text, {3})
    with pytest.raises(SteeringError, match="0 places before the concept"):
        edit_spectrum(model, torch.full((2, 5), 4), {3})
