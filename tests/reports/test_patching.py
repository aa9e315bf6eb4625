"""The report of a patching run says what the record says."""

from __future__ import annotations

import pytest
import torch
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports import patching_report
from interp.results import AblationCheck, Estimate, MethodAgreement, PatchScores, Provenance, SiteScores


def _scores(direction="denoise", clean=3.0, corrupted=-1.0, method=None, **changes):
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(3, 5, generator=generator)
    stream = torch.randn(3, 4, generator=generator)
    labels = {"layer": ("0", "1", "2"), "head": tuple("01234"), "pos": ("<b>", "Mary", "gave", "to")}
    sites = {
        "z": SiteScores("z", "z", ("layer", "head"), labels, heads, clean, corrupted, **changes),
        "resid_pre": SiteScores("resid_pre", "resid_pre", ("layer", "pos"), labels, stream, clean, corrupted),
    }
    made = Provenance(
        "tiny", task="ioi", metric="logit_diff", method=method, direction=direction, notes=("a note <i>",)
    )
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


def _agreement(method="attribution", **changes):
    known = dict(
        names=("L0H0", "L1H<1>", "L2H2"),
        exact=torch.tensor([0.5, 0.25, float("nan")]),
        approximate=torch.tensor([0.75, -0.5, 0.0]),
        pearson=Estimate(0.9, 0.8, 1.0),
        spearman=Estimate(0.9, 0.8, 1.0),
        sign_agreement=Estimate(0.5, 0.0, 1.0),
        confidence=0.95,
        provenance=Provenance("tiny", method=method, direction="denoise"),
        chosen_as=("top", "random", "random"),
        top_overlap=Estimate(1.0, 0.5, 1.0),
        k=1,
        n_sites=15,
    )
    return MethodAgreement(**known | changes)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_estimates_are_not_called_patches(tmp_path, direction):
    path = patching_report(_scores(direction, method="attribution"), tmp_path / "r.html")
    text = path.read_text(encoding="utf-8")
    base = "corrupted" if direction == "denoise" else "clean"
    assert f"into the {base} run would do, one site at a time, was estimated by attribution patching" in text
    assert "were put into" not in text
    assert "<title>Attribution patching: ioi on tiny</title>" in text
    assert "All are estimates." in text
    exact = patching_report(_scores(direction), tmp_path / "e.html").read_text(encoding="utf-8")
    assert f"activations were put into the {base} run, one site at a time" in exact
    assert "estimate" not in exact.split("<h2>Provenance")[0].split("</head>")[1].split("plotly-graph-div")[0]


def test_estimates_that_were_not_checked_say_so(tmp_path):
    path = patching_report(_scores(method="relevance:relp-ah"), tmp_path / "r.html")
    assert "Not checked against exact patching" in PageReader(path).headings
    text = path.read_text(encoding="utf-8")
    assert "estimates by relevance patching (relp-ah), and were not checked against exact patching" in text
    exact = PageReader(patching_report(_scores(method="exact"), tmp_path / "e.html"))
    assert not any("checked" in heading.lower() for heading in exact.headings)


def test_agreement_has_its_summary_figure_and_largest_disagreements(tmp_path):
    agreement = _agreement()
    path = patching_report(_scores(method="attribution"), tmp_path / "r.html", agreement=agreement)
    page = PageReader(path)
    assert page.headings[:4] == ["What was done", "Top sites", "Checked against exact patching", "Maps"]
    assert f"<p>{agreement.summary()}.</p>" in path.read_text(encoding="utf-8")
    assert len(page.figures) == 2
    start = page.cells.index("L1H<1>")
    assert page.cells[start : start + 5] == ["L1H<1>", "0.250", "−0.500", "−0.750", "random"]
    assert page.cells[start + 5 : start + 10] == ["L0H0", "0.500", "0.750", "0.250", "top"]
    assert page.cells[start + 10 : start + 15] == ["L2H2", "–", "0.000", "–", "random"]


def test_agreement_of_another_method_is_refused(tmp_path):
    for method in ("ig", "exact"):
        with pytest.raises(ExportError, match=f"agreement is of attribution, the scores are by {method}"):
            patching_report(_scores(method=method), tmp_path / "r.html", agreement=_agreement())
    assert list(tmp_path.iterdir()) == []


def test_top_sites_show_the_magnitude_they_are_ranked_by(tmp_path):
    sizes = torch.linspace(0, 9, 15).view(3, 5)
    scores = _scores(method="attribution*", magnitude=sizes)
    page = PageReader(patching_report(scores, tmp_path / "r.html", k=3))
    start = page.cells.index("L2H4")
    assert page.cells[start + 5] == "9.000"
    assert page.cells[start + 6] == "L2H3"
    assert "magnitude" not in "".join(PageReader(patching_report(_scores(), tmp_path / "e.html")).cells)
