"""What a latent adds to the logits: adding its direction to the model's last stream says the same."""

from __future__ import annotations

import pytest
import torch
from fake_dictionary import TopK
from model_zoo import specimen

import interp
from interp.coders.dashboard.logits import direct_logits, stream_directions, top_logits
from interp.errors import CoderError
from interp.models.norms import norm_scale

TOKENS = torch.tensor([[3, 9, 27, 4, 11]])


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"))


def test_logits_are_the_derivative_of_the_models_own_without_its_scale(family, make_hf_model):
    """The unembedding as the model itself does it, with the norm's scale held: linear in the stream."""
    model = interp.load_model(make_hf_model(family))
    t = model.traits
    direction = torch.randn(3, t.d_model, generator=torch.Generator().manual_seed(0))
    site = f"resid_post[{t.n_layers - 1}]"
    base = interp.capture(model, TOKENS, site)
    scale = norm_scale(base[site][0, -1], t)

    def logits(vector):
        with interp.intervene(model, [interp.add(f"{site}@-1", vector)]):
            found = model(TOKENS)[0, -1].double()
        return torch.atanh(found / t.final_soft_cap) * t.final_soft_cap if t.final_soft_cap else found

    for row, found in zip(direction, direct_logits(model, direction), strict=True):
        # a direction that does not change the norm's scale: orthogonal to the stream in the norm's own terms
        stream = base[site][0, -1]
        if t.norm == "layernorm":
            stream = stream - stream.mean()
        across = row - stream * (row @ stream) / (stream @ stream)
        change = (logits(1e-2 * across) - logits(-1e-2 * across)) / 2e-2 * scale.double()
        expected = direct_logits(model, across[None])[0].double()
        torch.testing.assert_close(change - change.mean(), expected, rtol=3e-3, atol=3e-3)
        assert float(found.mean()) == pytest.approx(0.0, abs=1e-5)


def test_top_tokens_by_hand(model):
    coder = TopK(model.traits.d_model)
    chosen = torch.tensor([5, 2])
    w = model.weights
    rows = coder.W_dec[chosen]
    rows = rows - rows.mean(1, keepdim=True)
    logits = (rows * w.ln_final.w) @ w.W_U
    logits = logits - logits.mean(1, keepdim=True)
    for found, values in zip(top_logits(model, coder, ["mlp_out[0]"], chosen, 4), logits, strict=True):
        order = values.argsort(descending=True).tolist()
        assert list(found.raised_tokens) == [str(i) for i in order[:4]]
        assert list(found.lowered_tokens) == [str(i) for i in order[::-1][:4]]
        torch.testing.assert_close(found.raised, values[order[:4]].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.lowered, values[order[::-1][:4]].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", ["z[1]", "z[1.2]", "mlp_post[1]", "attn_out[1]", "mlp_out[1]"])
def test_a_latents_direction_is_what_its_site_writes(model, site):
    """Adding a row at the site moves the stream after the layer by the direction, once it is past the MLP."""
    t = model.traits
    width = {"z[1]": t.n_heads * t.d_head, "z[1.2]": t.d_head, "mlp_post[1]": t.d_mlp}.get(site, t.d_model)
    row = torch.randn(1, width, generator=torch.Generator().manual_seed(4))
    direction = stream_directions(model, row, [site])[0]
    after = "resid_mid[1]" if site[0] in "za" else "resid_post[1]"
    value = row.view(t.n_heads, t.d_head) if site == "z[1]" else row[0]
    clean = interp.capture(model, TOKENS, after)[after][0, -1]
    with interp.intervene(model, [interp.add(f"{site}@-1", value)]):
        moved = interp.capture(model, TOKENS, after)[after][0, -1]
    torch.testing.assert_close(moved - clean, direction, rtol=1e-4, atol=1e-4)


def test_several_sites(model):
    d = model.traits.d_model
    rows = torch.randn(3, 2 * d, generator=torch.Generator().manual_seed(5))
    written = stream_directions(model, rows, ["mlp_out[0]", "mlp_out[1]"])
    torch.testing.assert_close(written, rows[:, :d] + rows[:, d:])
    stream = stream_directions(model, rows, ["resid_post[0]", "resid_post[1]"])
    torch.testing.assert_close(stream, rows[:, d:])


@pytest.mark.parametrize("site", ["q[0]", "mlp_pre[0]", "z"])
def test_sites_that_write_nothing_have_no_logits(model, site):
    assert stream_directions(model, torch.zeros(2, 36), [site]) is None
    assert top_logits(model, TopK(36), [site], torch.tensor([1, 2]), 3) == [None, None]


def test_widths_are_checked(model):
    with pytest.raises(CoderError, match=r"rows of 35; mlp_out\[0\] of this model has width 36"):
        stream_directions(model, torch.zeros(2, 35), ["mlp_out[0]"])
    with pytest.raises(CoderError, match="which 2 sites of one width cannot share"):
        stream_directions(model, torch.zeros(2, 35), ["mlp_out[0]", "mlp_out[1]"])


def test_a_model_without_norm_has_plain_products():
    model = specimen("no_norm").model
    rows = torch.randn(2, model.traits.d_model, generator=torch.Generator().manual_seed(6))
    logits = (rows @ model.weights.W_U).detach()
    torch.testing.assert_close(direct_logits(model, rows), logits - logits.mean(1, keepdim=True))
