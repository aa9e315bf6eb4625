"""One pass over the prompts: activations and latents of all sites and coders, against one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from random_coders import random_coder

import interp
from interp.coders.semi_nmf.dictionary import SemiNMF
from interp.errors import SteeringError
from interp.steering.contrast import read_contrast

D_MODEL, D_MLP = 36, 52


def prompts(n: int, seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(53, (3 + i % 4,), generator=draw) for i in range(n)]


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("llama"))


def features(seed: int = 0) -> SemiNMF:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, D_MLP, generator=draw)
    return SemiNMF(rows / rows.norm(dim=1, keepdim=True), sites=("mlp_post[1]",))


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_site_and_coder_equals_one_prompt_at_a_time(model, pool, batch_size):
    positive, negative = prompts(7, 0), prompts(5, 1)
    coders = {
        "sae": random_coder("topk", D_MODEL, sites=("resid_post[0]",)),
        "transcoder": random_coder("transcoder", D_MODEL, sites=("mlp_in[1]",), targets=("mlp_out[1]",)),
        "features": features(),
        "heads": random_coder("topk", 40, sites=("z[1]",)),
    }
    found = read_contrast(
        model, positive, negative, ["resid_pre[1]", "z[0]"], coders=coders, pool=pool, batch_size=batch_size
    )
    places = ["resid_pre[1]", "z[0]", "resid_post[0]", "mlp_out[1]", "mlp_post[1]", "z[1]"]
    assert [str(site) for site in found.rows] == places
    assert not found.at("z[0]").paired

    def pooled(value):
        return value.amax(0) if pool == "max" else value.mean(0)

    for side, given in (("positive", positive), ("negative", negative)):
        for i, tokens in enumerate(given):
            with torch.no_grad():
                cache = interp.capture(model, tokens[None], [*places, "mlp_in[1]"])
            for place in places:
                wanted = pooled(cache[place][0].flatten(1))
                torch.testing.assert_close(getattr(found.at(place), side)[i], wanted, atol=1e-5, rtol=1e-5)
            for name, coder in coders.items():
                read = cache[coder.sites[0]][0].flatten(1)
                with torch.no_grad():
                    wanted = pooled(coder.encode(read))
                torch.testing.assert_close(
                    getattr(found.latents_of(name), side)[i], wanted, atol=1e-5, rtol=1e-5
                )


def test_latents_are_pooled_over_the_positions_of_the_site_that_is_written(model):
    coder = random_coder("transcoder", D_MODEL, sites=("mlp_in[1]",), targets=("mlp_out[1]",))
    positive, negative = prompts(3, 0), prompts(3, 1)
    found = read_contrast(model, positive, negative, "mlp_out[1]@-1", coders={"c": coder}).latents_of("c")
    for i, tokens in enumerate(positive):
        with torch.no_grad():
            last = interp.capture(model, tokens[None], "mlp_in[1]")["mlp_in[1]"][0, -1]
            torch.testing.assert_close(found.positive[i], coder.encode(last), atol=1e-5, rtol=1e-5)


def test_coders_that_are_no_directions_are_refused(model):
    sides = prompts(2, 0), prompts(2, 1)

    def read(coder):
        return read_contrast(model, *sides, "resid_post[0]", coders={"c": coder})

    with pytest.raises(SteeringError, match=r"reads \[\] and writes \[\].*Set coder.sites"):
        read(random_coder("topk", D_MODEL))
    several = random_coder("crosscoder", D_MODEL, sites=("resid_post[0]", "resid_post[1]"))
    with pytest.raises(SteeringError, match="read one site and write one"):
        read(several)
    with pytest.raises(SteeringError, match="need gradients"):
        read(random_coder("gradient", D_MODEL, sites=("resid_post[0]",)))


def test_bad_options_are_refused(model):
    sides = prompts(2, 0), prompts(2, 1)
    with pytest.raises(SteeringError, match="did you mean 'mean'"):
        read_contrast(model, *sides, "embed", pool="meann")
    with pytest.raises(SteeringError, match=r"resid_post\[0\] is to be read at two kinds of positions"):
        read_contrast(model, *sides, ["resid_post[0]@-1", "resid_post[0]@0"])
    with pytest.raises(SteeringError, match="unknown coder 'b'"):
        read_contrast(model, *sides, "embed").latents_of("b")
