"""Profiles against prompts run one by one and looked through by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fake_dictionary import TopK, pad, read_one_by_one

import interp
from interp.coders.dashboard import profile_latents
from interp.errors import CoderError

LENGTHS = (9, 4, 7, 1, 9, 6, 8, 2, 5, 9, 3)


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"))


@pytest.fixture(scope="module")
def coder(model):
    return TopK(model.traits.d_model)


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(0, 53, (n,), generator=draw) for n in LENGTHS]


@pytest.fixture(scope="module")
def batches(prompts):
    """Padded on either side, in batches of unequal size."""
    return [pad(prompts[:4], "left"), pad(prompts[4:9], "right"), pad(prompts[9:], "left")]


@pytest.fixture(scope="module", params=[True, False], ids=["without first", "all tokens"])
def case(request, model, coder, prompts, batches):
    settings = dict(n_examples=4, n_random=3, window=2, quantiles=(0.25, 0.5), n_near=5, n_logits=6)
    profile = profile_latents(
        model, coder, batches, range(24), skip_first=request.param, progress=False, **settings
    )
    return profile, read_one_by_one(model, coder, prompts, request.param)


def test_counts_over_all_latents(case):
    profile, read = case
    rows = read.rows()
    fired = (rows > 0).sum(0)
    assert profile.n_tokens == len(rows)
    torch.testing.assert_close(profile.density, fired / len(rows))
    torch.testing.assert_close(profile.mean, rows.sum(0) / fired, equal_nan=True)
    torch.testing.assert_close(profile.maximum, rows.amax(0).where(fired > 0, torch.nan), equal_nan=True)
    assert profile.l0_counts.tolist() == torch.bincount((rows > 0).sum(1)).tolist()
    assert 0 in profile.dead.tolist()
    assert profile.provenance.n_prompts == len(LENGTHS)


def test_largest_examples_are_the_peaks_of_prompts(case):
    profile, read = case
    for latent in profile:
        peaks = [
            (float(found[:, latent.latent].nan_to_num(0).max()), prompt)
            for prompt, found in enumerate(read.latents)
        ]
        best = sorted([peak for peak in peaks if peak[0] > 0], reverse=True)[:4]
        if not best:
            assert latent.examples == ()
            assert latent.is_dead
            continue
        group = latent.top
        np.testing.assert_allclose(group.values, [value for value, _ in best], rtol=1e-5)
        # prompts that begin alike tie
        of_prompt = {prompt: value for value, prompt in peaks}
        np.testing.assert_allclose(
            group.values, [of_prompt[prompt] for prompt in group.prompts.tolist()], rtol=1e-5
        )
        assert len(set(group.prompts.tolist())) == len(group)


def test_windows_are_the_text_around_with_its_activations(case):
    profile, read = case
    for latent in profile:
        for group in latent.examples:
            for i in range(len(group)):
                prompt, position = int(group.prompts[i]), int(group.positions[i])
                start, stop = max(position - 2, 0), min(position + 3, len(read.tokens[prompt]))
                assert group.tokens[i] == tuple(str(int(t)) for t in read.tokens[prompt][start:stop])
                assert int(group.peaks[i]) == position - start
                width = stop - start
                torch.testing.assert_close(
                    group.activations[i, :width],
                    read.latents[prompt][start:stop, latent.latent],
                    equal_nan=True,
                    rtol=1e-4,
                    atol=1e-5,
                )
                assert group.activations[i, width:].isnan().all()


def test_intervals_hold_random_firings_of_their_own(case):
    profile, read = case
    rows = read.rows()
    for latent in profile:
        values = rows[:, latent.latent]
        values = values[values > 0].double()
        groups = latent.examples[1:]
        assert sum(group.share for group in groups) == pytest.approx(float(len(values) > 0))
        for group in groups:
            is_last = group.high == pytest.approx(float(values.max()))
            inside = (values >= group.low) & (
                (values <= group.high + 1e-5) if is_last else (values < group.high)
            )
            assert group.share * len(values) == pytest.approx(int(inside.sum()), abs=1e-4)
            assert len(group) == min(3, int(inside.sum()))
            assert (group.values >= group.low).all()
            assert (group.values <= group.high).all()
            places = list(zip(group.prompts.tolist(), group.positions.tolist(), strict=True))
            assert len(set(places)) == len(places)
            assert group.values.tolist() == sorted(group.values.tolist(), reverse=True)


def test_histograms(case):
    profile, read = case
    for latent in profile:
        values = read.rows()[:, latent.latent]
        values = values[values > 0].numpy()
        assert int(latent.counts.sum()) == len(values)
        if len(values):
            expected, _ = np.histogram(values, bins=latent.edges.double().numpy() * (1 + 1e-6))
            # a value on an edge may fall on either side of it
            assert np.abs(np.cumsum(expected) - np.cumsum(latent.counts.numpy())).max() <= 1


def test_firing_together_is_a_correlation_over_tokens(case):
    profile, read = case
    fires = (read.rows() > 0).double().numpy()
    for latent in profile:
        own = fires[:, latent.latent]
        expected = {}
        for other in range(24):
            if other != latent.latent and own.std() and fires[:, other].std():
                expected[other] = float(np.corrcoef(own, fires[:, other])[0, 1])
        best = sorted((v for v in expected.values() if v > 0), reverse=True)[:5]
        np.testing.assert_allclose(latent.coactive.values, best, rtol=1e-4, atol=1e-6)
        for other, value in zip(
            latent.coactive.latents.tolist(), latent.coactive.values.tolist(), strict=True
        ):
            assert expected[other] == pytest.approx(value, rel=1e-4)


def test_nearest_directions_and_alignment(case, coder):
    profile, _ = case
    unit = coder.W_dec / coder.W_dec.norm(dim=1, keepdim=True)
    for latent in profile:
        cosines = unit @ unit[latent.latent]
        cosines[latent.latent] = -2
        assert latent.neighbours.latents.tolist() == cosines.argsort(descending=True)[:5].tolist()
        torch.testing.assert_close(latent.neighbours.values, cosines.sort(descending=True).values[:5])
        own = float(coder.W_enc[latent.latent] @ unit[latent.latent] / coder.W_enc[latent.latent].norm())
        assert latent.alignment == pytest.approx(own, rel=1e-4)
        assert float(profile.alignment[latent.latent]) == pytest.approx(own, rel=1e-4)


def test_batches_make_no_difference(model, coder, prompts, batches, case):
    profile, _ = case
    skip_first = "first tokens left out" in profile.provenance.notes
    other = profile_latents(
        model, coder, prompts, range(24), batch_size=3, n_examples=4, n_random=3, window=2, quantiles=(0.25, 0.5),
        skip_first=skip_first, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(other.density, profile.density)
    for one, two in zip(profile, other, strict=True):
        assert [g.share for g in one.examples] == pytest.approx([g.share for g in two.examples])
        if not one.is_dead:
            torch.testing.assert_close(one.top.values, two.top.values)


def test_quantiles_are_right_to_within_a_bin():
    from interp.coders.dashboard.survey import survey_latents

    values = (1.5 * torch.randn(4000, generator=torch.Generator().manual_seed(2))).exp()
    batch = type("Batch", (), {"rows": values[:, None], "tokens": values[None]})
    survey = survey_latents(_Pass(), [batch])
    for share in (0.01, 0.2, 0.5, 0.9, 0.999):
        exact = float(values.quantile(share))
        assert survey.quantiles(0, [share])[0] == pytest.approx(exact, rel=2 ** (1 / 16) - 1)


class _Pass:
    d_sae, W_dec = 1, torch.ones(1, 1)

    def encode(self, x):
        return x


def test_every_firing_of_an_interval_is_drawn_as_often(model, coder):
    tokens = torch.randint(0, 53, (6, 20), generator=torch.Generator().manual_seed(3))
    density = profile_latents(model, coder, tokens, 1, progress=False).density
    latent = int((density - 0.1).abs().argmin())
    hits: dict[tuple[int, int], int] = {}
    for seed in range(60):
        profile = profile_latents(
            model, coder, tokens, [latent], n_random=4, quantiles=(), seed=seed, batch_size=4, progress=False
        )
        group = profile[latent].examples[1]
        for place in zip(group.prompts.tolist(), group.positions.tolist(), strict=True):
            hits[place] = hits.get(place, 0) + 1
    n = round(profile[latent].density * profile.n_tokens)
    assert len(group) == 4 < n
    expected = 60 * 4 / n
    spread = math.sqrt(expected * (1 - 4 / n))
    assert len(hits) == n
    assert all(abs(count - expected) < 5 * spread for count in hits.values())


def test_random_choice_is_of_live_latents_and_by_seed(model, coder, prompts):
    def ask(latents, seed=0):
        profile = profile_latents(model, coder, prompts, latents, seed=seed, progress=False)
        return [latent.latent for latent in profile], profile

    alive, profile = ask(None)
    assert alive == torch.nonzero(profile.density).flatten().tolist()
    some, _ = ask(6)
    assert len(some) == 6
    assert some == sorted(some) == ask(6)[0]
    assert set(some) < set(alive)
    assert any(ask(6, seed)[0] != some for seed in range(1, 5))
    assert ask([7, 2, 0])[0] == [7, 2, 0]


def test_sites_of_heads_are_read_flat(model, prompts):
    coder = TopK(model.traits.n_heads * model.traits.d_head, site="z[0]")
    profile = profile_latents(model, coder, prompts, [3], progress=False)
    rows = read_one_by_one(model, coder, prompts).rows()
    torch.testing.assert_close(profile.density, (rows > 0).float().mean(0))
    parts = coder.W_dec[3].view(model.traits.n_heads, -1).square().sum(1)
    torch.testing.assert_close(profile[3].head_shares, parts / parts.sum())
    assert profile[3].logits is not None


def test_transcoders_read_one_site_and_write_another(model, prompts):
    d = model.traits.d_model
    coder = TopK(d, site="resid_mid[0]", target="mlp_out[0]")
    profile = profile_latents(model, coder, prompts, [3], progress=False)
    assert (profile.site, profile.target_site) == ("resid_mid[0]", "mlp_out[0]")
    assert profile.alignment is None
    assert math.isnan(profile[3].alignment)
    rows = read_one_by_one(model, coder, prompts).rows()
    torch.testing.assert_close(profile.density, (rows > 0).float().mean(0))


class Layered:
    """Two layers of latents: latents of layer l write to layers l and later."""

    config, sites, target_sites = None, ("resid_mid[0]", "resid_mid[1]"), ("mlp_out[0]", "mlp_out[1]")

    def __init__(self, d):
        self.parts = [TopK(d, d_out=2 * d, seed=1), TopK(d, d_out=d, seed=2)]
        self.n_layers, self.d_in, self.d_sae = 2, d, 24

    def encode_layer(self, x, layer):
        return self.parts[layer].encode(x)

    def decoder_weights(self):
        return [part.W_dec for part in self.parts]


def test_a_layer_of_a_cross_layer_transcoder(model, prompts):
    coder = Layered(model.traits.d_model)
    first = profile_latents(model, coder, prompts, [4], layer=0, progress=False)
    assert (first.site, first.target_site) == ("resid_mid[0]", "mlp_out[0] + mlp_out[1]")
    alone = TopK(model.traits.d_model, seed=2, site="resid_mid[1]", target="mlp_out[1]")
    second = profile_latents(model, coder, prompts, [4], layer=1, progress=False)
    same = profile_latents(model, alone, prompts, [4], progress=False)
    torch.testing.assert_close(second.density, same.density)
    assert second[4].logits.raised_tokens == same[4].logits.raised_tokens
    with pytest.raises(CoderError, match="name one of its own: layer=0 to 1"):
        profile_latents(model, coder, prompts, progress=False)
    with pytest.raises(CoderError, match=r"layers 0 to 1 of its own; got layer=2"):
        profile_latents(model, coder, prompts, layer=2, progress=False)


def test_several_sites_are_stacked(model, prompts):
    coder = TopK(2 * model.traits.d_model)
    coder.sites = coder.target_sites = ("resid_post[0]", "resid_post[1]")
    encode = coder.encode
    coder.encode = lambda x: encode(x.flatten(1))
    profile = profile_latents(model, coder, prompts, [3], skip_first=False, progress=False)
    cache = [interp.capture(model, prompt[None], coder.sites) for prompt in prompts]
    x = torch.cat([torch.cat([c[site][0] for site in coder.sites], -1) for c in cache])
    torch.testing.assert_close(profile.density, (encode(x) > 0).float().mean(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(latents=[24]), "different numbers from 0 to 23"),
        (dict(latents=[]), "different numbers from 0 to 23"),
        (dict(latents=[3, 3]), "different numbers from 0 to 23"),
        (dict(latents=0), "at least one latent must be looked at"),
        (dict(quantiles=(0.5, 0.5)), "quantiles must rise between 0 and 1"),
        (dict(quantiles=(1.0,)), "quantiles must rise between 0 and 1"),
        (dict(n_examples=0), "at least one example of each kind"),
        (dict(window=-1), "no negative window"),
        (dict(layer=0), "only a cross-layer transcoder has layers; got layer=0 for a TopK"),
    ],
)
def test_refusals(model, coder, prompts, changes, message):
    with pytest.raises(CoderError, match=message):
        profile_latents(model, coder, prompts, progress=False, **changes)


def test_data_is_read_twice(model, coder, prompts):
    with pytest.raises(CoderError, match="a generator can be read once"):
        profile_latents(model, coder, (p for p in prompts), progress=False)


def test_prompts_of_one_token_leave_nothing(model, coder):
    with pytest.raises(CoderError, match="no token to look at in 2 prompts"):
        profile_latents(model, coder, torch.zeros(2, 1, dtype=torch.long), progress=False)


def test_a_coder_must_say_where_it_reads(model, coder, prompts):
    nowhere = TopK(model.traits.d_model)
    nowhere.sites = nowhere.target_sites = ()
    with pytest.raises(CoderError, match="name it, such as site="):
        profile_latents(model, nowhere, prompts, progress=False)
    named = profile_latents(model, nowhere, prompts, [3], site="mlp_out[1]", progress=False)
    torch.testing.assert_close(
        named.density, profile_latents(model, coder, prompts, [3], progress=False).density
    )


def test_latents_of_another_shape_are_refused(model, prompts):
    odd = TopK(model.traits.d_model)
    odd.encode = lambda x: x
    with pytest.raises(CoderError, match=r"needs latents \[row, d_sae=24\]; TopK.encode gave"):
        profile_latents(model, odd, prompts, progress=False)
