"""The models other tests stand on: fixed by their seed, and far from trivial."""

from __future__ import annotations

import torch

TOKENS = torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(0))


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def test_seed_fixes_the_model(make_hf_model, family):
    state = torch.random.get_rng_state()
    first = _logits(make_hf_model(family, seed=3))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, _logits(make_hf_model(family, seed=3)))
    assert not torch.allclose(first, _logits(make_hf_model(family, seed=4)), atol=0.1)


def test_attention_is_far_from_uniform(make_hf_model, family):
    with torch.no_grad():
        layers = make_hf_model(family)(TOKENS, use_cache=False, output_attentions=True).attentions
    strongest = torch.stack(layers)[..., -1, :].amax(-1).mean(dim=(1, 2))
    assert (strongest > 0.25).all()


def test_gemma_window_and_caps_act(make_hf_model):
    model = make_hf_model("gemma2")
    changed = {"sliding_window": 64, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 50.0}
    for name, value in changed.items():
        other = make_hf_model("gemma2", **{name: value})
        assert (_logits(model) - _logits(other)).abs().max() > 0.05, name
