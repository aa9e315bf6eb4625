"""Pictures of coders and their latents, read as data; and curves that redraw themselves."""

from __future__ import annotations

import math
import sys
import types
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from fake_latents import make_dead, make_history, make_latent, make_pareto, make_profile

import interp.plots.live
from interp.errors import RecordError
from interp.plots.coder_history import plot_coder_history
from interp.plots.coder_pareto import plot_coder_pareto
from interp.plots.coder_profile import plot_coder_profile
from interp.plots.latent import plot_latent
from interp.plots.latent_text import latent_html
from interp.plots.live import LiveCurves
from interp.plots.scales import BLUE, RED


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def panels(figure):
    """Traces by the title above them."""
    found = {}
    for note in figure.layout.annotations:
        if note.xref != "paper":
            continue
        for trace in figure.data:
            x = figure.layout["xaxis" + trace.xaxis[1:]].domain
            y = figure.layout["yaxis" + trace.yaxis[1:]].domain
            if math.isclose(x[0], note.x) and math.isclose(y[1], note.y):
                found.setdefault(note.text, []).append(trace)
    return found


def test_histogram_of_a_latent_with_its_quantiles():
    figure = plot_latent(make_latent())
    bars = panels(figure)["activations where it fires; dotted: quantiles"][0]
    assert list(bars.y) == [40, 30, 20, 10]
    assert list(bars.x) == [0.5, 1.5, 2.5, 3.5]
    assert bars.width == 1.0
    assert bars.hovertext[1] == "<b>1 to 2</b><br>30 of 100 firings"
    assert [shape.x0 for shape in figure.layout.shapes] == [1.25]
    assert [note.text for note in figure.layout.annotations if note.xref != "paper"] == ["50 %"]


def test_tokens_written_and_neighbours():
    found = panels(plot_latent(make_latent()))
    up, down = found["logits raised"][0], found["logits lowered"][0]
    assert (list(up.y), list(up.x)) == (["·Mary", "&lt;s&gt;"], [2.0, 1.0])
    assert (list(down.y), list(down.x)) == (["&amp;", "↵"], [-3.0, -0.5])
    assert set(up.marker.color) == {BLUE}
    assert set(down.marker.color) == {RED}
    assert up.hovertext[0] == "<b>·Mary</b><br>+2.000 a unit of activation"
    near = found["nearest decoder directions"][0]
    assert (list(near.y), list(near.x)) == (["3", "5"], [0.5, -0.25])
    assert list(found["fire on the same tokens"][0].y) == ["8"]
    figure = plot_latent(make_latent())
    ranges = [figure.layout["xaxis" + t.xaxis[1:]].range for t in (up, down)]
    assert ranges[0] == (0, ranges[0][1])
    assert ranges[1] == (-ranges[0][1], 0)


def test_a_latent_says_what_it_is():
    figure = plot_latent(make_latent(label="<b>", f1={"tense": 0.5}))
    assert figure.layout.title.text == "Latent 17 at mlp_out[2] “&lt;b&gt;”"
    assert "fires on 12.500% of 800 tokens · cosine of encoder and decoder 0.62" in subtitle(figure)
    assert "F1 tense 0.50" in subtitle(figure)
    dead = subtitle(plot_latent(make_dead(alignment=math.nan)))
    assert "never fired on 800 tokens" in dead
    assert "cosine" not in dead


def test_density_counts_every_live_latent():
    profile = make_profile()
    found = panels(plot_coder_profile(profile))
    bars = found["density (1 of 32 dead)"][0]
    assert sum(bars.y) == 31
    edges = np.append(bars.x - bars.width / 2, bars.x[-1] + bars.width[-1] / 2)
    expected, _ = np.histogram(np.log10(profile.density[1:].numpy()), bins=edges)
    assert list(bars.y) == list(expected)
    l0 = found["L0: mean 1.8"][0]
    assert (list(l0.x), list(l0.y)) == ([0.0, 1.0, 2.0, 3.0], [100, 200, 300, 200])


def test_alignment_over_density():
    profile = make_profile()
    points = panels(plot_coder_profile(profile))["encoder against decoder"][0]
    np.testing.assert_allclose(points.x, np.log10(profile.density[1:].numpy()), rtol=1e-5)
    np.testing.assert_allclose(points.y, profile.alignment[1:], rtol=1e-5)
    assert [i + 1 for i, color in enumerate(points.marker.color) if color == BLUE] == [17, 20]
    assert points.hovertext[16].startswith("<b>latent 17</b> &lt;names&gt; &amp; co<br>fires on 26.562%")
    assert "encoder against decoder" not in panels(plot_coder_profile(make_profile(alignment=None)))


def test_wide_counts_are_binned_without_loss():
    counts = torch.arange(701)
    figure = plot_coder_profile(make_profile(l0_counts=counts))
    bars = next(traces[0] for title, traces in panels(figure).items() if title.startswith("L0"))
    assert sum(bars.y) == int(counts.sum())
    assert len(bars.y) < 130
    assert bars.hovertext[1] == "<b>6 to 11 latents</b><br>51 tokens"


def test_training_curves_are_those_of_the_record():
    names = ("first", "second<b>")
    history = make_history(names)
    found = panels(plot_coder_history(history))
    assert list(found) == [
        "loss",
        "L0 (latents a token)",
        "FVU (unexplained variance)",
        "dead latents",
        "part of the loss: auxk",
        "learning rate",
    ]
    for title, measure in (("loss", "loss"), ("L0 (latents a token)", "l0"), ("dead latents", "dead_frac")):
        for trace, name in zip(found[title], names, strict=True):
            assert list(trace.x) == history.tokens.tolist()
            np.testing.assert_allclose(trace.y, history.curve(measure, name), rtol=1e-6)
    assert [trace.name for trace in found["loss"]] == ["first", "second&lt;b&gt;"]
    assert [trace.showlegend for trace in found["loss"]] == [True, True]
    assert not any(trace.showlegend for trace in found["dead latents"])
    assert found["loss"][0].line.color == found["dead latents"][0].line.color != found["loss"][1].line.color
    assert found["loss"][1].hovertext[1] == "<b>second&lt;b&gt;</b><br>2,000 tokens: loss 1"
    assert "k 16 throughout · 5,000 tokens · seed 3" in subtitle(plot_coder_history(history))


def test_what_was_not_measured_is_passed_over():
    history = make_history(("a", "b"), fvu=math.nan)
    assert not any(title.startswith("FVU") for title in panels(plot_coder_history(history)))
    history.curves["l0"][1, 0] = math.nan
    traces = panels(plot_coder_history(history))["L0 (latents a token)"]
    assert list(traces[0].x) == [1000, 3000, 4000, 5000]
    assert list(traces[0].y) == [16.0, 18.0, 19.0, 20.0]
    assert list(traces[1].x) == [1000, 2000, 3000, 4000, 5000]


def test_axes_fall_over_powers_of_ten_only_where_values_do():
    figure = plot_coder_history(make_history(rows=40))
    kinds = {
        title: figure.layout["yaxis" + traces[0].yaxis[1:]].type for title, traces in panels(figure).items()
    }
    assert kinds["loss"] == "log"
    assert kinds["dead latents"] == "linear"
    flat = plot_coder_history(make_history(rows=3))
    assert flat.layout.yaxis.type == "linear"
    assert flat.layout.yaxis.range[0] == 0


def test_pareto_has_every_run_as_a_point():
    pareto = make_pareto()
    found = panels(plot_coder_pareto(pareto))
    fvu = found["fraction of variance unexplained (less is better)"]
    points = {t.name: t for t in fvu if t.mode == "markers" and t.name}
    rows = [i for i, a in enumerate(pareto.architectures) if a == "jump<k>"]
    np.testing.assert_allclose(points["jump&lt;k&gt;"].x, pareto.l0[rows], rtol=1e-6)
    np.testing.assert_allclose(points["jump&lt;k&gt;"].y, pareto.fvu[rows], rtol=1e-6)
    assert (
        points["jump&lt;k&gt;"]
        .hovertext[1]
        .startswith("<b>jump&lt;k&gt; 8</b><br>jump&lt;k&gt;, seed 1<br>L0 8.08")
    )
    lines = [t for t in fvu if t.mode == "lines"]
    np.testing.assert_allclose(lines[0].y[0], float(pareto.fvu[:3].mean()), rtol=1e-5)
    rings = next(t for t in fvu if t.marker.symbol == "circle-open")
    np.testing.assert_allclose(rings.x, pareto.l0[pareto.front()], rtol=1e-6)
    assert len(found) == 2


def test_pareto_without_ce_has_one_panel():
    assert len(panels(plot_coder_pareto(make_pareto(ce_recovered=math.nan)))) == 1


class Words(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.spans, self.tags, self.titles, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag == "span"
        if self.inside:
            self.titles.append(dict(attrs).get("title"))
            self.spans.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.spans[-1] += data


def test_coloured_examples_are_text_with_activations():
    latent = make_latent(label="</div><script>")
    page = Words(latent_html(latent, examples=2))
    assert set(page.tags) == {"div", "span"}
    shown = [span for span, title in zip(page.spans, page.titles, strict=True) if title]
    assert shown[:5] == ["<s>", "·a", "</script>", "↵", "·$5"]
    titles = [title for title in page.titles if title]
    assert titles[:3] == ["<s>  not read", "·a  4", "</script>  0"]
    assert len(shown) == 5 + 4 + 5 + 4 + 5 + 4
    text = latent_html(latent)
    assert "largest activations, one a prompt" in text
    assert "quantiles 50–100 %: 1.25 to 4, 50% of firings" in text
    assert f"background:{BLUE}" in text
    assert "&lt;/div&gt;&lt;script&gt;" in text
    assert "never fired on 800 tokens" in latent_html(make_dead())
    with pytest.raises(RecordError, match="at least one example must be shown"):
        latent_html(latent, 0)


@pytest.fixture
def notebook(monkeypatch):
    """A kernel that takes note of what is displayed and updated."""
    seen = []

    class Handle:
        def update(self, bundle, raw):
            seen.append(("update", bundle, raw))

    def display(bundle, raw, display_id):
        seen.append(("display", bundle, raw))
        assert display_id
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(interp.plots.live, "in_notebook", lambda: True)
    return seen


def test_live_curves_update_one_display(notebook):
    curves = LiveCurves(seconds=0.0)
    curves(make_history(rows=2))
    curves(make_history(rows=3))
    assert [kind for kind, *_ in notebook] == ["display", "update"]
    assert all(raw and isinstance(bundle, dict) and bundle for _, bundle, raw in notebook)
    curves.finish()
    assert len(notebook) == 2


def test_live_curves_wait_and_draw_the_last_at_the_end(notebook):
    curves = LiveCurves(seconds=1e6)
    for rows in range(1, 6):
        curves(make_history(rows=rows))
    assert len(notebook) == 1
    curves.finish()
    assert [kind for kind, *_ in notebook] == ["display", "update"]
    assert "5,000 tokens" in str(notebook[1][1])


def test_live_curves_can_be_off_and_are_off_elsewhere(notebook, monkeypatch):
    LiveCurves(enabled=False)(make_history())
    monkeypatch.setattr(interp.plots.live, "in_notebook", lambda: False)
    curves = LiveCurves()
    curves(make_history())
    curves.finish()
    assert notebook == []


def test_a_test_runner_is_no_notebook():
    assert not interp.plots.live.in_notebook()
