"""Latents of attention-output coders by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_coders import D_SAE, random_coder
from torch import Tensor

import interp
from interp.coders.head_attribution import attribute_heads
from interp.errors import CoderError, RecordError
from interp.plots.head_attribution import plot_head_attribution
from interp.results.head_attribution import HeadAttribution


def prompts() -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(1, 53, (n,), generator=draw) for n in (9, 4, 7, 6)]


@pytest.fixture
def coder() -> Any:
    found = random_coder("topk", 40, sites=("z[1]",))
    with torch.no_grad():
        found.b_enc[4] = -1e4
    return found


@pytest.mark.parametrize("skip_first", [True, False])
def test_contributions_add_up_to_the_mean_pre_activation(coder: Any, skip_first: bool) -> None:
    model = specimen("llama").model
    found = attribute_heads(coder, model, prompts(), batch_size=3, skip_first=skip_first, progress=False)
    rows = []
    with torch.no_grad():
        for row in prompts():
            rows.append(interp.capture(model, row[None], "z[1]")["z[1]"][0, int(skip_first) :])
        z = torch.cat(rows)
        fires = coder.encode(z.flatten(1)) > 0
        pre = (z.flatten(1) - coder.b_dec) @ coder.W_enc.T + coder.b_enc
        constant = coder.b_enc - coder.W_enc @ coder.b_dec
        for latent in fires.any(0).nonzero()[:, 0].tolist():
            here = fires[:, latent]
            mean = pre[here, latent].mean() - constant[latent]
            assert float(found.contribution[latent].sum()) == pytest.approx(float(mean), abs=1e-4)
            for head in range(4):
                part = z[here, head] @ coder.W_enc[latent].view(4, 10)[head]
                assert float(found.contribution[latent, head]) == pytest.approx(float(part.mean()), abs=1e-5)
            torch.testing.assert_close(found.share[latent].sum(), torch.tensor(1.0), atol=1e-4, rtol=1e-4)
        lengths = coder.W_dec.view(D_SAE, 4, 10).norm(dim=2) ** 2
    torch.testing.assert_close(found.decoder_share, lengths / lengths.sum(1, keepdim=True))
    assert torch.equal(found.n_fired, fires.sum(0)) and found.n_tokens == len(z)
    assert int(found.n_fired[4]) == 0 and bool(found.contribution[4].isnan().all())


def test_latents_of_a_head(coder: Any, tmp_path: Any) -> None:
    model = specimen("llama").model
    with torch.no_grad():
        # latents 0 and 1 read and write head 2 alone
        mask = torch.zeros(40)
        mask[20:30] = 1
        for weights in (coder.W_enc, coder.W_dec):
            weights[:2] = weights[:2] * mask
            coder.b_enc[:2] = 8.0
    found = attribute_heads(coder, model, prompts(), progress=False)
    for latent in (0, 1):
        assert found.n_fired[latent] > 0
        torch.testing.assert_close(found.share[latent], torch.tensor([0.0, 0, 1, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.decoder_share[0], torch.tensor([0.0, 0, 1, 0]))
    ranked = found.top(2, n=50)
    assert 4 not in ranked and len(ranked) == int((found.n_fired > 0).sum())
    shares = found.share[list(ranked), 2]
    assert bool((shares[:-1] >= shares[1:]).all())
    again = HeadAttribution.load(found.save(tmp_path / "heads.safetensors"))
    assert torch.equal(again.contribution.nan_to_num(-9), found.contribution.nan_to_num(-9))
    frame = found.to_frame()
    assert len(frame) == D_SAE * 4 and frame.decoder_share[2] == pytest.approx(1.0)
    figure = plot_head_attribution(found, latents=[1, 0])
    assert list(figure.data[1].z[1]) == pytest.approx([0, 0, 1, 0])
    assert "H2" in figure.data[0].hovertext[0][2] and "latent 1" in figure.data[0].hovertext[0][2]
    busiest = plot_head_attribution(found, n=5)
    assert len(busiest.data[0].z) == 5
    with pytest.raises(RecordError, match="heads 0 to 3; got 4"):
        found.top(4)
    with pytest.raises(RecordError, match=r"latents 0 to 28, some of which fire; got \[29\]"):
        plot_head_attribution(found, latents=[29])


def test_what_has_no_heads(coder: Any) -> None:
    model = specimen("llama").model
    with pytest.raises(CoderError, match="this coder reads mlp_out"):
        attribute_heads(random_coder("topk", 36, sites=("mlp_out[0]",)), model, prompts(), progress=False)
    with pytest.raises(CoderError, match="no token to attribute"):
        attribute_heads(coder, model, [torch.tensor([3])], progress=False)
