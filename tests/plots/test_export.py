"""Figures as HTML and as image files."""

from __future__ import annotations

import builtins
import sys
import types

import plotly.graph_objects as go
import pytest

from interp.errors import ExportError
from interp.plots import figure_html, plot_attention, plot_patching, write_image


@pytest.fixture
def figure(make_site, make_scores):
    return plot_patching(make_scores(make_site("z", ("layer", "head"), (2, 2))))


def test_html_holds_the_figure_and_not_plotly(figure):
    html = figure_html(figure, div_id="z-heads")
    assert html.strip().startswith("<div")
    assert 'id="z-heads"' in html
    assert len(html) < 60_000
    assert "<script src" not in html
    assert html == figure_html(figure, div_id="z-heads")


def test_only_attention_listens_for_clicks(figure, make_patterns):
    assert "plotly_click" not in figure_html(figure)
    html = figure_html(plot_attention(make_patterns()), div_id="heads")
    assert html.count("plotly_click") == 1
    assert 'document.getElementById("heads")' in html
    assert '"choose"' in html.split("plotly_click")[1]
    assert "%s" not in html


@pytest.fixture
def kaleido(monkeypatch):
    """A stand-in, so that these tests need neither the extra nor a browser."""
    monkeypatch.setitem(sys.modules, "kaleido", types.ModuleType("kaleido"))


@pytest.mark.parametrize("name", ["heads.png", "deep/er/heads.SVG", "heads.pdf"])
def test_image_bytes_reach_the_file(figure, kaleido, tmp_path, monkeypatch, name):
    asked = {}

    def render(self, **settings):
        asked.update(settings)
        return b"image"

    monkeypatch.setattr(go.Figure, "to_image", render)
    path = write_image(figure, tmp_path / name, scale=3)
    assert path.read_bytes() == b"image"
    assert asked == {"format": name.rsplit(".", 1)[1].lower(), "scale": 3}


@pytest.mark.parametrize("name", ["heads", "heads.html", "heads.gif"])
def test_unknown_endings(figure, tmp_path, name):
    with pytest.raises(ExportError, match=r"the ending must be one of png, svg, pdf"):
        write_image(figure, tmp_path / name)


def test_without_kaleido_the_extra_is_named(figure, tmp_path, monkeypatch):
    real = builtins.__import__

    def lacking(name, *args, **kwargs):
        if name == "kaleido":
            raise ImportError("No module named 'kaleido'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "kaleido", raising=False)
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ExportError, match=r"'export' extra: pip install 'interp\[export\]'.*Chrome"):
        write_image(figure, tmp_path / "heads.png")


def test_a_failing_browser_is_named(figure, kaleido, tmp_path, monkeypatch):
    def fail(self, **_):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(go.Figure, "to_image", fail)
    monkeypatch.setitem(sys.modules, "kaleido", object())
    with pytest.raises(ExportError, match=r"RuntimeError: Kaleido requires.*BROWSER_PATH"):
        write_image(figure, tmp_path / "heads.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(go.Figure, "to_image", lambda self, **_: b"image")
    monkeypatch.setitem(sys.modules, "kaleido", object())
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        write_image(figure, tmp_path / "file" / "heads.png")
