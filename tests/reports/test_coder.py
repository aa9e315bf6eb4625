"""The report of a coder says what its records say."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_latents import make_history, make_pareto, make_profile
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports.coder import coder_report
from interp.reports.page import Section


class Evaluation:
    def summary(self):
        return "L0 16\nCE recovered 0.93 [0.92, 0.94] <b>"

    def to_frame(self):
        return pd.DataFrame({"figure": [f"f{i}" for i in range(50)], "value": [i / 4 for i in range(50)]})

    def plot(self):
        return go.Figure(go.Bar(y=[1]))


def test_all_parts(tmp_path):
    profile = make_profile()
    path = coder_report(
        profile,
        tmp_path / "r.html",
        evaluation=Evaluation(),
        history=make_history(("a<b>", "c")),
        pareto=make_pareto(),
        latents=2,
        sections=(Section("More", ("text",)),),
    )
    page = PageReader(path)
    assert page.headings == [
        "The coder",
        "Evaluation on the model",
        "Training",
        "Sparsity against fidelity",
        "How often latents fire",
        "2 of the 3 latents looked at",
        "More",
        "Provenance",
    ]
    assert len(page.figures) == 4
    start = page.cells.index("reads")
    assert page.cells[start : start + 6] == [
        "reads",
        "mlp_out[2]",
        "predicts",
        "mlp_out[2]",
        "architecture",
        "topk<k>",
    ]
    start = page.cells.index("f1")
    assert page.cells[start : start + 4] == ["f1", "0.250", "f2", "0.500"]
    assert "f39" in page.cells
    assert "f40" not in page.cells
    text = path.read_text(encoding="utf-8")
    assert "CE recovered 0.93 [0.92, 0.94] &lt;b&gt;" in text
    assert "The first 40 of 50 rows:" in text
    assert "a&lt;b&gt;: 5,000 tokens, loss 0.2" in text
    assert profile.latents[1].to_html(5) in text
    assert profile.latents[2].to_html(5) not in text


def test_the_densest_latents_come_first(tmp_path):
    page = PageReader(coder_report(make_profile(), tmp_path / "r.html"))
    start = page.cells.index("31")
    assert page.cells[start : start + 6] == ["31", "48.44%", "1.453", "4.359", "30", "46.88%"]


def test_without_an_evaluation_the_report_says_so(tmp_path):
    path = coder_report(make_profile(), tmp_path / "r.html", latents=0)
    page = PageReader(path)
    assert page.headings == [
        "The coder",
        "Not evaluated on the model",
        "How often latents fire",
        "Provenance",
    ]
    assert "interp.evaluate_coder" in path.read_text(encoding="utf-8")


class Wide(Evaluation):
    def to_frame(self):
        return pd.DataFrame({"site": ["a", "b"], **{f"f{i}": [i / 4, i / 2] for i in range(9)}})


def test_few_rows_of_many_figures_stand_upright(tmp_path):
    page = PageReader(coder_report(make_profile(), tmp_path / "r.html", evaluation=Wide(), latents=0))
    start = page.cells.index("site")
    assert page.cells[start : start + 9] == ["site", "a", "b", "f0", "0.000", "0.000", "f1", "0.250", "0.500"]


def test_refusals(tmp_path):
    with pytest.raises(ExportError, match="got latents=-1"):
        coder_report(make_profile(), tmp_path / "r.html", latents=-1)
    with pytest.raises(ExportError, match="examples=0"):
        coder_report(make_profile(), tmp_path / "r.html", examples=0)
    assert list(tmp_path.iterdir()) == []
