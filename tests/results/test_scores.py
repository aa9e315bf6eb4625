"""Scores of sites, against naive computations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from interp.errors import DataFileError, PatchError
from interp.results import HeadScores, PatchScores, Provenance, SiteScores


def numbered(n: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(n))


def make_site(site="z", component="z", labels=None, clean=3.0, corrupted=-1.0, seed=0, prompts=None):
    labels = labels or {"layer": numbered(3), "head": numbered(5)}
    generator = torch.Generator().manual_seed(seed)
    shape = [len(names) for names in labels.values()]
    raw = torch.randn(shape, generator=generator)
    per_prompt = (
        None if prompts is None else raw[..., None] + torch.randn(*shape, prompts, generator=generator)
    )
    return SiteScores(site, component, tuple(labels), labels, raw, clean, corrupted, per_prompt)


def make_scores(*sites, direction="denoise"):
    return PatchScores({s.site: s for s in sites}, Provenance(model="m", direction=direction))


def test_recovered_score_is_0_at_corrupted_and_1_at_clean():
    scores = make_site()
    raw = torch.tensor([[3.0, -1.0, 1.0, 5.0, -3.0]])
    one_row = SiteScores("z", "z", ("layer", "head"), {"layer": ("0",), "head": numbered(5)}, raw, 3.0, -1.0)
    assert one_row.values.tolist() == [[1.0, 0.0, 0.5, 1.5, -0.5]]
    for index in itertools.product(range(3), range(5)):
        assert float(scores.values[index]) == pytest.approx((float(scores.raw[index]) + 1.0) / 4.0)


def test_equal_baselines_give_nan_not_infinity():
    scores = make_site(clean=2.0, corrupted=2.0)
    assert scores.values.isnan().all()
    ranked = make_scores(scores).top(4)
    assert [row.index for row in ranked] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert all(math.isnan(row.value) for row in ranked)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_top_is_the_naive_sort(direction):
    heads = make_site(seed=1)
    stream = make_site("resid_pre", "resid_pre", {"layer": numbered(2), "pos": (" a", " b", " a")}, seed=2)
    scores = make_scores(heads, stream, direction=direction)
    nothing = 1.0 if direction == "noise" else 0.0
    naive = []
    for site in (heads, stream):
        for index in itertools.product(*map(range, site.raw.shape)):
            naive.append((abs((float(site.raw[index]) + 1) / 4 - nothing), site.site, index))
    naive.sort(key=lambda entry: -entry[0])
    rows = scores.top(7)
    assert [(row.site, row.index) for row in rows] == [(site, index) for _, site, index in naive[:7]]
    assert [abs(row.effect) for row in rows] == pytest.approx([entry[0] for entry in naive[:7]], abs=1e-6)
    only = scores.top(100, site="resid_pre")
    assert len(only) == 6
    assert {row.site for row in only} == {"resid_pre"}


def test_nan_comes_last_and_ties_keep_their_order():
    raw = torch.tensor([[float("nan"), 1.0, -3.0, 1.0]])
    labels = {"layer": ("0",), "head": numbered(4)}
    scores = make_scores(SiteScores("z", "z", ("layer", "head"), labels, raw, 3.0, -1.0))
    assert [row.index[1] for row in scores.top(4)] == [1, 2, 3, 0]  # effects .5 -.5 .5 nan
    assert [row.index[1] for row in scores.top(2)] == [1, 2]


@pytest.mark.parametrize(
    ("site", "component", "labels", "index", "name"),
    [
        ("z", "z", {"layer": numbered(10), "head": numbered(7)}, (9, 6), "L9H6"),
        ("q", "q", {"layer": numbered(10), "head": numbered(7)}, (9, 6), "L9H6 q"),
        ("k", "k", {"layer": numbered(2), "kv_head": numbered(3)}, (1, 2), "L1H2 k"),
        (
            "resid_pre",
            "resid_pre",
            {"layer": numbered(5), "pos": ("a", " Mary")},
            (4, 1),
            "resid_pre L4 @ ·Mary",
        ),
        (
            "resid_pre",
            "resid_pre",
            {"layer": numbered(2), "pos": (" a", " a")},
            (1, 1),
            "resid_pre L1 @ 1 ·a",
        ),
        ("z@pos", "z", {"layer": ("7",), "head": numbered(2), "pos": ("x", "\n")}, (0, 1, 1), "L7H1 @ ↵"),
        (
            "mlp_post",
            "mlp_post",
            {"layer": numbered(4), "neuron": ("5", "1207")},
            (3, 1),
            "mlp_post L3 n1207",
        ),
        ("mlp_post[3].n*", "mlp_post", {"neuron": ("5", "1207")}, (1,), "mlp_post L3 n1207"),
        ("mlp_out[2]:latent*", "mlp_out", {"latent": ("17",)}, (0,), "mlp_out L2 latent 17"),
        ("z[9]", "z", {"head": numbered(7)}, (6,), "L9H6"),
        ("z[9.6]@END", "z", {}, (), "L9H6 @ END"),
        ("embed", "embed", {"pos": ("a", "b")}, (1,), "embed @ b"),
        (
            "pattern",
            "pattern",
            {"layer": ("0",), "head": ("1",), "dest_pos": ("a", "b"), "src_pos": ("a", "b")},
            (0, 0, 1, 0),
            "L0H1 pattern to b from a",
        ),
    ],
)
def test_names(site, component, labels, index, name):
    scores = SiteScores(
        site, component, tuple(labels), labels, torch.zeros([len(v) for v in labels.values()]), 1.0, 0.0
    )
    assert scores.name_at(index) == name
    every = [scores.name_at(i) for i in itertools.product(*map(range, scores.raw.shape))]
    assert len(set(every)) == len(every)


def test_a_single_value_is_ranked():
    scores = make_scores(SiteScores("z[1.0]", "z", (), {}, torch.tensor(1.0), 3.0, -1.0))
    (row,) = scores.top(5)
    assert (row.name, row.index, row.value, row.raw) == ("L1H0", (), 0.5, 1.0)


def test_frame_holds_every_entry():
    scores = make_scores(make_site(), make_site("q", "q", seed=3), direction="noise")
    frame = scores.to_frame()
    assert len(frame) == 30
    for row in frame.itertuples():
        site = scores[row.site]
        value = (float(site.raw[int(row.layer), int(row.head)]) + 1) / 4
        assert row.value == pytest.approx(value)
        assert row.effect == pytest.approx(value - 1)
        assert row.name == f"L{row.layer}H{row.head}" + ("" if row.site == "z" else " q")


def test_lookup_by_site_or_component():
    scores = make_scores(make_site("z@pos", "z"), make_site("q[1]", "q"), make_site("q[2]", "q"))
    assert scores["z"] is scores["z@pos"]
    assert list(scores) == ["z@pos", "q[1]", "q[2]"]
    with pytest.raises(KeyError, match=r"unknown site in these scores 'q'"):
        scores["q"]
    with pytest.raises(KeyError, match=r"did you mean 'q\[1\]'"):
        scores["q[1"]


def test_disagreeing_shapes_are_refused():
    labels = {"layer": numbered(2), "head": numbered(3)}
    with pytest.raises(PatchError, match=r"shape \(3, 2\); labels .* say \(2, 3\)"):
        SiteScores("z", "z", ("layer", "head"), labels, torch.zeros(3, 2), 1.0, 0.0)
    with pytest.raises(PatchError, match=r"no labels for axes \['pos'\]"):
        SiteScores("z", "z", ("layer", "pos"), labels, torch.zeros(2, 3), 1.0, 0.0)
    with pytest.raises(PatchError, match="per-prompt scores of 'z'"):
        SiteScores("z", "z", ("layer", "head"), labels, torch.zeros(2, 3), 1.0, 0.0, torch.zeros(3, 2, 4))


def test_save_and_load(tmp_path):
    stream = make_site(
        "resid_pre@pos", "resid_pre", {"layer": numbered(2), "pos": (" a", "\n", "<s>")}, prompts=3
    )
    scores = make_scores(make_site(), stream, direction="noise")
    read = PatchScores.load(scores.save(tmp_path / "scores.safetensors"))
    assert list(read) == list(scores)
    assert read.provenance == scores.provenance
    for key, site in scores.items():
        assert (read[key].axes, read[key].labels, read[key].clean) == (site.axes, site.labels, site.clean)
        assert torch.equal(read[key].raw, site.raw)
    assert torch.equal(read["resid_pre@pos"].per_prompt, stream.per_prompt)
    assert read["z"].per_prompt is None
    assert read.top(20) == scores.top(20)
    with pytest.raises(DataFileError, match="holds a PatchScores record"):
        HeadScores.load(tmp_path / "scores.safetensors")
