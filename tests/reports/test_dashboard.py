"""Dashboards hold what the records say, whatever the text in them."""

from __future__ import annotations

import json
import math

import pytest
from fake_latents import make_dead, make_latent, make_profile
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports.dashboard import write_dashboard


def read(path):
    """The page, and the data in it."""
    page = PageReader(path)
    return page, json.loads(page.scripts[0])


def test_a_page_holds_every_latent(tmp_path):
    profile = make_profile().annotate(f1={17: {"tense": 0.5}})
    page, data = read(write_dashboard(profile, tmp_path / "d.html"))
    assert len(page.scripts) == 2
    assert {"controls", "latent", "data"} <= set(page.ids)
    assert [latent["n"] for latent in data["latents"]] == [0, 17, 20]
    words, latent = data["vocabulary"], data["latents"][1]
    assert latent["label"] == "<names> & co"
    assert latent["facts"] == [
        "fires on 12.500% of 800 tokens",
        "largest activation 4",
        "mean 1.5",
        "cosine of encoder and decoder 0.62",
        "F1 tense 0.50",
    ]
    assert latent["counts"] == [40, 30, 20, 10]
    assert latent["marks"] == [["50 %", 1.25]]
    assert [[words[i], value] for i, value in latent["up"]] == [["·Mary", 2.0], ["<s>", 1.0]]
    assert [[words[i], value] for i, value in latent["down"]] == [["&", -3.0], ["↵", -0.5]]
    assert latent["near"] == [[3, 0.5], [5, -0.25]]
    assert latent["coactive"] == [[8, 0.75]]
    assert [group["name"] for group in latent["groups"]] == [
        "largest activations, one a prompt",
        "quantiles 50–100 %: 1.25 to 4, 50% of firings",
        "quantiles 0–50 %: 0 to 1.25, 50% of firings",
    ]


def test_examples_are_sparse_and_whole(tmp_path):
    profile = make_latent()
    _, data = read(write_dashboard(profile, tmp_path / "d.html"))
    for group, kept in zip(profile.examples, data["latents"][0]["groups"], strict=True):
        for i, row in enumerate(kept["rows"]):
            shown = [data["vocabulary"][word] for word in row["t"]]
            assert shown == [t.replace(" ", "·").replace("\n", "↵") for t in group.tokens[i]]
            values = dict(row["a"])
            for at in range(len(group.tokens[i])):
                value = float(group.activations[i, at])
                expected = None if math.isnan(value) else pytest.approx(value, rel=1e-3)
                assert values.get(at, 0.0) == expected
            assert row["p"] == int(group.peaks[i])
            assert row["w"] == [int(group.prompts[i]), int(group.positions[i])]


def test_density_histogram_counts_the_live_latents(tmp_path):
    _, data = read(write_dashboard(make_profile(), tmp_path / "d.html"))
    density = data["density"]
    assert sum(density["counts"]) == 31
    assert density["low"] + density["width"] * len(density["counts"]) == pytest.approx(0.0)
    _, alone = read(write_dashboard(make_latent(), tmp_path / "one.html"))
    assert alone["density"] is None
    assert len(alone["latents"]) == 1


def test_nothing_is_taken_for_markup_and_nothing_comes_from_elsewhere(tmp_path):
    nasty = '</script><img src="http://example.org/x.png">'
    path = write_dashboard(make_latent(label=nasty), tmp_path / "d.html", title=nasty)
    text = path.read_text(encoding="utf-8")
    page, data = read(path)
    assert data["latents"][0]["label"] == nasty
    assert "img" not in page.tags
    assert page.addresses == ["data:,"]
    assert text.count("</script>") == 2
    assert "innerHTML" not in text
    assert "eval(" not in text
    assert "https://" not in text


def test_dead_latents_and_missing_numbers(tmp_path):
    path = write_dashboard(make_profile(latents=(make_dead(),)), tmp_path / "d.html")
    _, data = read(path)
    latent = data["latents"][0]
    assert latent["facts"] == ["never fired on 800 tokens"]
    assert latent["max"] is None
    assert (latent["groups"], latent["coactive"]) == ([], [])
    assert "NaN" not in PageReader(path).scripts[0]


def test_latents_share_their_words(tmp_path):
    one = write_dashboard(make_profile(512, (make_latent(1),)), tmp_path / "one.html").stat().st_size
    many = write_dashboard(make_profile(512, tuple(map(make_latent, range(500)))), tmp_path / "m.html")
    _, data = read(many)
    assert len(data["vocabulary"]) == len(set(data["vocabulary"])) < 12
    assert (many.stat().st_size - one) / 499 < 1500
    assert one < 40_000


def test_refusals(tmp_path):
    with pytest.raises(ExportError, match=r"holds no latent to show; profile some"):
        write_dashboard(make_profile(latents=()), tmp_path / "d.html")
    with pytest.raises(ExportError, match="a report is an HTML file"):
        write_dashboard(make_latent(), tmp_path / "d.txt")
    assert list(tmp_path.iterdir()) == []
