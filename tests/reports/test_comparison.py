"""The report of methods compared has the paper's layout and the record's numbers."""

from __future__ import annotations

from html.parser import HTMLParser

from page_reader import PageReader

from interp.reports import comparison_report
from interp.results import Estimate, MethodComparison, MethodCost, MethodRow, Provenance

SITES, METHODS = ("resid_pre", "z"), ("attribution", "<ig>")
CASES = (("gpt2", "ioi"), ("pythia", "ioi"))


class Tables(HTMLParser):
    """Rows of every table: texts, with how many columns each spans."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, int]]]] = []
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(("", int(dict(attrs).get("colspan", 1))))
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            text, span = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, span)


def _comparison(peak=2**20):
    rows = []
    for model, task in CASES:
        for method in METHODS:
            for site in SITES:
                value = len(rows) / 10
                found = Estimate(value, value - 0.1, value + 0.1)
                rows.append(
                    MethodRow(model, task, site, method, 9, found, Estimate(-value, -1.0, 0.0), found, found)
                )
    costs = tuple(
        MethodCost(*case, method, 0.5 * (i + 1), peak and peak * (i + 1))
        for case in CASES
        for i, method in enumerate(("exact", *METHODS))
    )
    made = Provenance("pythia", task="ioi", n_prompts=7, metric="logit_diff", method="comparison")
    return MethodComparison(tuple(rows), costs, 0.9, made)


def test_tables_have_a_row_a_case_and_the_methods_of_each_site(tmp_path):
    text = comparison_report(_comparison(), tmp_path / "r.html").read_text(encoding="utf-8")
    pearson, spearman, seconds, memory, _ = Tables(text).tables
    for table in (pearson, spearman):
        assert table[0] == [("", 2), ("resid_pre", 2), ("z", 2)]
        assert [cell for cell, _ in table[1]] == ["model", "task", *METHODS, *METHODS]
        assert [row[0][0] for row in table[2:]] == ["gpt2", "pythia"]
    assert [cell for cell, _ in pearson[2]] == [
        "gpt2",
        "ioi",
        "0.00 [-0.10,\u00a00.10]",
        "0.20 [0.10,\u00a00.30]",
        "0.10 [0.00,\u00a00.20]",
        "0.30 [0.20,\u00a00.40]",
    ]
    assert spearman[3][5][0] == "-0.70 [-1.00,\u00a00.00]"
    assert seconds[0] == [("", 2), ("seconds", 3)]
    assert [cell for cell, _ in seconds[2]] == ["gpt2", "ioi", "0.500", "1.000", "1.500"]
    assert memory[0][1][0] == "peak memory beside the weights, MiB"
    assert [cell for cell, _ in memory[3]] == ["pythia", "ioi", "1.000", "2.000", "3.000"]


def test_unmeasured_memory_has_no_table(tmp_path):
    text = comparison_report(_comparison(None), tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(Tables(text).tables) == 4


def test_sections_figures_and_a_provenance_of_all_cases(tmp_path):
    page = PageReader(comparison_report(_comparison(), tmp_path / "r.html"))
    assert page.headings == [
        "Agreement with exact patching",
        "Pearson correlation",
        "Spearman correlation",
        "Every model and task",
        "Costs",
        "Provenance",
    ]
    assert len(page.figures) == 2
    assert page.cells[page.cells.index("gpt2, pythia") - 1] == "model"
    assert "7" not in page.cells
