"""The report of steerings: everything in one page, and what is missing said."""

from __future__ import annotations

import pytest
import torch
from fake_steering_evaluation import ANY_MODEL, PROVENANCE, fake_evaluation, fake_off_target
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports import steering_report
from interp.results.steered_text import SteeredText


def text():
    return SteeredText(
        tokens=(("a", "<b>", "c"),),
        strength=torch.tensor([[0.0, 1.0, float("nan")]]),
        n_prompt=torch.tensor([1]),
        asked=torch.tensor([0.5]),
        unit="dose",
        steering=("add(resid_post[1])",),
        provenance=PROVENANCE,
    )


def test_all_of_it(tmp_path):
    found = fake_evaluation()
    path = steering_report(
        found, tmp_path / "r.html", off_target=fake_off_target(), examples={"<b>lda": text()}
    )
    page = PageReader(path)
    assert page.headings == [
        "What it brings and what it costs",
        "Dose-response",
        "Every dose",
        "Off target",
        "Written under <b>lda",
        "Measures",
        "Provenance",
    ]
    assert len(page.figures) == 2
    assert "b" not in page.tags
    assert all(address.startswith(("#", "data:,")) for address in page.addresses)
    one = found.at("mean-difference", 0.3, "concept")
    assert f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" in page.cells
    over = found.at("mean-difference", 0.3, "concept", "over_controls")
    assert f"{over.value:+.3f} [{over.low:+.3f}, {over.high:+.3f}]".replace("-", "−") in page.cells
    assert "generated text" in page.cells and "legal" in page.cells


def test_what_is_missing_is_said(tmp_path):
    found = fake_evaluation(controls=(), measures=ANY_MODEL, unreached=True)
    path = steering_report(found, tmp_path / "r.html", title="<mine>")
    page = PageReader(path)
    assert "No controls" in page.headings and "Off target: not measured" in page.headings
    whole = path.read_text()
    assert "Not reached by any strength: mean-difference at 1 nats." in whole
    assert "<title>&lt;mine&gt;</title>" in whole
    with pytest.raises(ExportError, match="HTML file"):
        steering_report(found, tmp_path / "r.pdf")
