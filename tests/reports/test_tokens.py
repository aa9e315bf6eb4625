"""The report of contributions of tokens says what the records say."""

from __future__ import annotations

import pytest
import torch
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports import tokens_report
from interp.results import Estimate, MaskingCheck, Provenance, TokenScores


def _scores(**changes):
    made = Provenance("tiny", task="ioi", metric="logit <diff>", method="relevance", ablation="zero")
    known = dict(
        tokens=(("<s>", " Mary", "<script>"), ("<s>", " gave")),
        values=torch.tensor([[0.5, -2.0, 1.0], [0.25, 3.0, float("nan")]]),
        metric=torch.tensor([4.0, 2.0]),
        run="clean",
        provenance=made,
    )
    return TokenScores(**known | changes)


def _check(method="relevance"):
    return MaskingCheck(
        "tokens",
        (0.1, 0.5),
        torch.tensor([[4.0, 2.0], [5.0, 5.0]]),
        torch.tensor([[1.0, 1.0], [5.0, 4.0]]),
        torch.tensor([[[2.0, 2.0]], [[4.0, 4.0]]]),
        (Estimate(2.0, 1.0, 3.0), Estimate(0.5, 0.0, 1.0)),
        0.9,
        Provenance("tiny", method=method, direction="noise", ablation="zero"),
    )


def test_coloured_text_stands_in_the_page_as_it_is(tmp_path):
    scores = _scores()
    path = tokens_report(scores, tmp_path / "r.html")
    text = path.read_text(encoding="utf-8")
    assert f'<div class="prepared">{scores.to_html()}</div>' in text
    assert "&lt;script&gt;</span>" in text
    page = PageReader(path)
    assert not any(script.startswith("<") for script in page.scripts)
    assert len(page.figures) == 1


def test_largest_contributions_and_sums(tmp_path):
    page = PageReader(tokens_report(_scores(), tmp_path / "r.html"))
    start = page.cells.index("·gave")
    assert page.cells[start : start + 8] == ["·gave", "1", "1", "3.000", "·Mary", "0", "1", "−2.000"]
    start = page.cells.index("mean logit <diff>")
    assert page.cells[start : start + 4] == [
        "mean logit <diff>",
        "3.000",
        "mean sum of a prompt's tokens",
        "1.375",
    ]
    assert "torch" in page.cells


def test_without_a_check_the_report_says_so(tmp_path):
    path = tokens_report(_scores(), tmp_path / "r.html")
    assert "Not checked" in PageReader(path).headings
    assert "Checked by masking" not in PageReader(path).headings
    assert "was not checked here" in path.read_text(encoding="utf-8")


def test_the_check_is_shown_with_its_verdict(tmp_path):
    page = PageReader(tokens_report(_scores(), tmp_path / "r.html", check=_check()))
    assert "Checked by masking" in page.headings
    assert "Not checked" not in page.headings
    start = page.cells.index("10%")
    assert page.cells[start : start + 6] == ["10%", "3.000", "2.000", "1.000", "2.00 [1.00, 3.00]", "yes"]
    assert page.cells[start + 11] == "no"
    assert len(page.figures) == 2


def test_the_check_of_another_ranking_is_refused(tmp_path):
    with pytest.raises(ExportError, match="the check is of a ranking by ig, the scores are by relevance"):
        tokens_report(_scores(), tmp_path / "r.html", check=_check("ig"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "ablation", "said"),
    [
        (
            "relevance",
            "zero",
            "about how far logit would fall if the token's embedding were replaced by zeros",
        ),
        ("exact", "source", ": how far logit would fall if the token's embedding were replaced by the other"),
    ],
)
def test_what_was_done(tmp_path, method, ablation, said):
    made = Provenance("tiny", metric="logit", method=method, ablation=ablation)
    text = tokens_report(_scores(provenance=made), tmp_path / "r.html").read_text(encoding="utf-8")
    assert said in text.replace("&#x27;", "'")
    assert ("It was estimated by relevance." in text) == (method == "relevance")
    assert "<title>Contributions of tokens: custom task on tiny</title>" in text
