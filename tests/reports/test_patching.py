"""The report of a patching run says what the record says."""

from __future__ import annotations

import pytest
import torch
from page_reader import PageReader

from interp.reports import patching_report
from interp.results import AblationCheck, PatchScores, Provenance, SiteScores


def _scores(direction="denoise", clean=3.0, corrupted=-1.0):
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(3, 5, generator=generator)
    stream = torch.randn(3, 4, generator=generator)
    labels = {"layer": ("0", "1", "2"), "head": tuple("01234"), "pos": ("<b>", "Mary", "gave", "to")}
    sites = {
        "z": SiteScores("z", "z", ("layer", "head"), labels, heads, clean, corrupted),
        "resid_pre": SiteScores("resid_pre", "resid_pre", ("layer", "pos"), labels, stream, clean, corrupted),
    }
    made = Provenance("tiny", task="ioi", metric="logit_diff", direction=direction, notes=("a note <i>",))
    return PatchScores(sites, made)


def _check():
    made = Provenance("tiny", metric="logit_diff", ablation="mean", notes=("a note <i>", "its own"))
    random = torch.tensor([2.5, 2.9, 3.1])
    return AblationCheck(
        ("L0H1", "L2H4"), clean=3.0, corrupted=-1.0, ablated=0.5, random=random, provenance=made
    )


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_top_sites_are_in_order_with_their_numbers(tmp_path, direction):
    scores = _scores(direction)
    page = PageReader(patching_report(scores, tmp_path / "r.html", k=4))
    for row in scores.top(4):
        start = page.cells.index(row.name)
        expected = [
            row.name,
            row.site,
            *(f"{v:.3f}".replace("-", "−") for v in (row.value, row.effect, row.raw)),
        ]
        assert page.cells[start : start + 5] == expected
    order = [page.cells.index(row.name) for row in scores.top(4)]
    assert order == sorted(order)


def test_ablation_and_provenance_are_there(tmp_path):
    path = patching_report(_scores(), tmp_path / "r.html", ablation=_check(), ablation_note="other <prompts>")
    assert "<p>other &lt;prompts&gt;</p>" in path.read_text(encoding="utf-8")
    page = PageReader(path)
    assert page.headings == ["What was done", "Top sites", "Maps", "Ablated together", "Provenance"]
    assert len(page.figures) == 2
    start = page.cells.index("L0H1, L2H4 ablated")
    assert page.cells[start + 1 : start + 3] == ["0.500", "0.375"]
    assert page.cells.count("a note <i>") == 1
    assert "its own" in page.cells
    assert "torch" in page.cells


def test_equal_baselines_give_dashes_not_numbers(tmp_path):
    page = PageReader(patching_report(_scores(clean=1.0, corrupted=1.0), tmp_path / "r.html", k=2))
    first = page.cells.index("L0H0")
    assert page.cells[first + 2 : first + 4] == ["–", "–"]
