"""Profiles of latents and of coders as records."""

from __future__ import annotations

import math

import pytest
import torch
from fake_latents import make_dead, make_examples, make_latent, make_profile

from interp.errors import DataFileError, RecordError
from interp.results.coder_profile import CoderProfile
from interp.results.feature import LatentLogits, LatentNeighbours, LatentProfile


def assert_same(one, two):
    for name in ("density", "l0_counts", "mean", "maximum", "alignment"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), equal_nan=True)
    assert [p.latent for p in one] == [p.latent for p in two]
    for a, b in zip(one, two, strict=True):
        assert (a.label, a.f1, a.density, a.logits is None) == (b.label, b.f1, b.density, b.logits is None)
        assert a.to_frame().equals(b.to_frame())
        torch.testing.assert_close(a.neighbours.values, b.neighbours.values)
        for x, y in zip(a.examples, b.examples, strict=True):
            assert (x.name, x.low, x.high, x.share, x.tokens) == (y.name, y.low, y.high, y.share, y.tokens)
            torch.testing.assert_close(x.activations, y.activations, equal_nan=True)


def test_files(tmp_path):
    profile = make_profile().annotate(f1={17: {"tense": 0.5}})
    read = CoderProfile.load(profile.save(tmp_path / "coder"))
    assert_same(profile, read)
    assert read.provenance == profile.provenance
    one = make_latent(head_shares=torch.tensor([0.5, 0.5]), logits=None)
    alone = LatentProfile.load(one.save(tmp_path / "latent"))
    assert alone.to_frame().equals(one.to_frame())
    assert alone.head_shares.tolist() == [0.5, 0.5]
    with pytest.raises(DataFileError, match="holds a LatentProfile record"):
        CoderProfile.load(tmp_path / "latent")


def test_examples_know_their_place():
    group = make_examples(high=4.0)
    assert group.values.tolist() == [4.0, 3.0, 2.0]
    frame = make_latent().to_frame()
    assert list(frame["group"]) == ["largest"] * 3 + ["50–100 %"] * 2 + ["0–50 %"] * 2
    assert frame["token"][0] == " a"
    assert frame["text"][0] == "<s> a</script>\n $5"
    assert (frame["prompt"][1], frame["position"][1]) == (7, 2)
    assert list(make_dead().to_frame().columns) == list(frame.columns)


def test_examples_are_checked():
    group = make_examples()
    fields = dict(name="x", low=0.0, high=1.0, share=1.0, tokens=group.tokens, activations=group.activations)
    places = dict(prompts=group.prompts, positions=group.positions)
    with pytest.raises(RecordError, match=r"peaks must lie in their windows of \[5, 4, 3\]"):
        type(group)(**fields, peaks=torch.tensor([1, 1, 3]), **places)
    with pytest.raises(RecordError, match="activations for 4"):
        type(group)(**fields | {"activations": group.activations[:, :4]}, peaks=group.peaks, **places)
    with pytest.raises(RecordError, match=r"peaks must be \[example=3\]"):
        type(group)(**fields, peaks=torch.tensor([1, 1]), **places)


def test_latents_are_checked():
    with pytest.raises(RecordError, match=r"edges must be \[edge=4\]"):
        make_latent(counts=torch.tensor([1, 2, 3]))
    with pytest.raises(RecordError, match="edges of a histogram must rise"):
        make_latent(edges=torch.zeros(5))
    with pytest.raises(RecordError, match=r"raised must be \[up=1\]"):
        LatentLogits((" a",), torch.zeros(2), (), torch.zeros(0))
    with pytest.raises(RecordError, match=r"values must be \[near=2\]"):
        LatentNeighbours(torch.tensor([1, 2]), torch.zeros(3))


def test_names_and_summaries():
    latent = make_latent(label="names", f1={"tense": 0.5, "undefined": math.nan})
    assert latent.name == "mlp_out[2]:latent17"
    assert latent.summary().splitlines() == [
        "mlp_out[2]:latent17 “names”: fires on 12.500% of 800 tokens, mean 1.5, largest 4",
        "  fires on  ·a  </script>  ↵",
        "  raises    ·Mary  <s>",
        "  lowers    &  ↵",
        "  near      3 (0.50)  5 (-0.25)",
        "  F1        tense 0.500",
    ]
    dead = make_dead()
    assert dead.is_dead
    assert dead.summary() == "mlp_out[2]:latent0: never fired on 800 tokens"
    with pytest.raises(RecordError, match="no examples named 'largest'"):
        _ = dead.top


def test_the_whole_coder():
    profile = make_profile()
    assert profile.n_tokens == 800
    assert profile.l0 == pytest.approx((200 + 600 + 600) / 800)
    assert profile.dead.tolist() == [0]
    assert profile.dead_frac == 1 / 32
    assert [profile.l0_quantile(share) for share in (0.0, 0.125, 0.13, 0.5, 0.8, 1.0)] == [0, 0, 1, 2, 3, 3]
    assert profile[20].latent == 20
    assert [latent.latent for latent in profile] == [0, 17, 20]
    with pytest.raises(RecordError, match=r"latent 3 has no profile here; there are 3: \[0, 17, 20\]"):
        profile[3]
    frame = profile.to_frame()
    assert list(frame["density"]) == profile.density.tolist()
    assert "alignment" not in make_profile(alignment=None).to_frame()


def test_text_for_the_terminal():
    text = make_profile().to_text(2)
    assert text.startswith("topk<k> at mlp_out[2] of mix<4>l & co: 8 → 32 latents, on 800 tokens\n")
    assert "L0 1.8 (5 %, 50 %, 95 % of tokens: 0, 2, 3)" in text
    assert "dead 1 of 32 (3.1%)" in text
    assert "mlp_out[2]:latent17 “<names> & co”" in text
    assert "latent20" not in text
    assert text.endswith("... and 1 more profiles")
    dead = make_profile(4, (), density=torch.zeros(4), l0_counts=torch.tensor([800]), alignment=None)
    assert "dead 4 of 4 (100.0%); no latent fires" in dead.to_text()
    assert "mlp_out[2] → mlp_out[3]" in make_profile(target_site="mlp_out[3]").summary()


def test_meanings_are_added_and_others_kept():
    profile = make_profile()
    found = profile.annotate({20: "verbs"}, {17: {"tense": 0.75}})
    assert [latent.label for latent in found] == [None, "<names> & co", "verbs"]
    assert [latent.f1 for latent in found] == [{}, {"tense": 0.75}, {}]
    assert profile[20].label is None
    with pytest.raises(RecordError, match="latent 4 has no profile"):
        profile.annotate({4: "x"})


def test_a_coder_is_checked():
    with pytest.raises(RecordError, match="profiles of each at most once; got latents"):
        make_profile(latents=(make_latent(3), make_latent(3)))
    with pytest.raises(RecordError, match="profiles of each at most once"):
        make_profile(latents=(make_latent(32),))
    with pytest.raises(RecordError, match="at least one token"):
        make_profile(l0_counts=torch.zeros(3, dtype=torch.long))
    with pytest.raises(RecordError, match=r"alignment must be \[d_sae=32\]"):
        make_profile(alignment=torch.zeros(3))
