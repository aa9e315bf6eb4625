"""A report is one file that needs no network, whatever the text in it."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest
from page_reader import PageReader

from interp.errors import ExportError
from interp.reports import Section, Table, write_report

NASTY = '<script>alert("x")</script> & <img src="http://example.org/x.png">'


def _figure(value=1.0):
    return go.Figure(go.Bar(y=[value]))


def test_plotly_stands_once_and_every_figure_is_there(tmp_path):
    sections = [Section("One", figures=(_figure(), _figure())), Section("Two", figures=(_figure(),))]
    page = PageReader(write_report(tmp_path / "r.html", "Title", sections))
    libraries = [script for script in page.scripts if len(script) > 1_000_000]
    assert len(libraries) == 1
    assert len(page.figures) == 3
    assert len(set(page.ids)) == len(page.ids)
    for name in page.figures:
        drawn = [s for s in page.scripts if "Plotly.newPlot" in s and f'"{name}"' in s and s not in libraries]
        assert len(drawn) == 1, name


def test_nothing_comes_from_elsewhere(tmp_path):
    page = PageReader(write_report(tmp_path / "r.html", "Title", [Section("One", figures=(_figure(),))]))
    assert page.addresses
    assert all(address == "data:," or address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_text_is_escaped_everywhere(tmp_path):
    section = Section(NASTY, (NASTY,), (Table((NASTY,), ((NASTY,),)),))
    page = PageReader(write_report(tmp_path / "r.html", NASTY, [section], subtitle=NASTY, footer=NASTY))
    assert page.scripts == []
    assert "img" not in page.tags
    assert page.cells == [NASTY]
    assert page.headings == [NASTY]


def test_prepared_html_stands_as_it_is_between_text_and_tables(tmp_path):
    section = Section(
        "One",
        ("text & more",),
        (Table(("a",), (("cell",),)),),
        prepared=("<b>one</b>", '<i title="&lt;">two</i>'),
    )
    text = write_report(tmp_path / "r.html", "T", [section]).read_text(encoding="utf-8")
    places = [
        text.index(part)
        for part in (
            "<p>text &amp; more</p>",
            '<div class="prepared"><b>one</b></div>',
            '<div class="prepared"><i title="&lt;">two</i></div>',
            "<table>",
        )
    ]
    assert places == sorted(places)


def test_groups_stand_above_their_columns(tmp_path):
    table = Table(("a", "b", "c"), (("x", 1, 2),), groups=(("", 1), ("<both>", 2)))
    text = write_report(tmp_path / "r.html", "T", [Section("One", tables=(table,))]).read_text(
        encoding="utf-8"
    )
    assert '<table class="grouped">' in text
    assert (
        '<tr><th class="group" colspan="1"></th><th class="group" colspan="2">&lt;both&gt;</th></tr>' in text
    )
    with pytest.raises(ExportError, match="span 2 of its columns; expected all"):
        Table(("a", "b", "c"), (), groups=(("z", 2),))


def test_without_figures_plotly_is_left_out(tmp_path):
    path = write_report(tmp_path / "r.html", "T", [Section("One", ("text",))])
    assert path.stat().st_size < 10_000


def test_cells_are_shown_as_numbers_or_a_dash(tmp_path):
    table = Table(("a", "b"), (("x", 0.12345), ("y", -2.0), ("z", float("nan")), ("n", 3), ("none", None)))
    page = PageReader(write_report(tmp_path / "r.html", "T", [Section("One", tables=(table,))]))
    assert page.cells == ["x", "0.123", "y", "−2.000", "z", "–", "n", "3", "none", "–"]


def test_what_cannot_be_a_report_is_refused(tmp_path):
    with pytest.raises(ExportError, match="at least one section"):
        write_report(tmp_path / "r.html", "T", [])
    with pytest.raises(ExportError, match=r"HTML file, such as report\.html"):
        write_report(tmp_path / "r.pdf", "T", [Section("One")])
    with pytest.raises(ExportError, match="a row of the table"):
        Table(("a", "b"), (("x",),))
    assert list(tmp_path.iterdir()) == []
