"""What holds for every figure: layout, scales, text, and no trace of it outside."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from plotly.colors import diverging

KINDS = [
    "patching few", "patching many", "patching heads at positions", "patching patterns", "patching neurons",
    "patching bars", "patching nan", "patching equal", "attention", "attention many", "attention long",
    "lens", "lens many", "lens without targets", "attribution", "attribution many", "attribution plain",
    "roles", "roles many", "subspace", "ablation", "agreement", "agreement all", "history", "history plain",
    "sets pairs", "sets pairs many", "sets pairs some", "sets pairs equal", "sets three", "sets one",
    "sets greedy", "tokens", "tokens long", "tokens one", "tokens many", "masking", "masking one share",
    "masking undefined", "conservation", "conservation deep", "conservation nothing", "comparison",
    "comparison many", "comparison one", "patching estimated",
    "faithfulness", "faithfulness many", "faithfulness one", "faithfulness nothing", "faithfulness equal",
    "completeness", "completeness equal", "minimality", "minimality many", "test equivalence",
    "test independence", "test minimality", "test of nothing", "circuit check",
    "circuit", "circuit without values", "circuit columns", "circuit labels", "circuit grouped", "circuit units",
    "circuit large", "circuit of one edge", "edge scores", "edge scores columns", "edge scores units",
    "edge scores large", "edge scores equal", "edge scores of one head",
    "overlap", "overlap many", "overlap given", "cross ablation", "cross ablation many", "repair",
    "repair many", "repair without controls", "development", "development many", "development of effects",
    "discrete", "discrete one layer", "discrete many", "discrete silent",
    "recovery", "recovery perfect", "recovery equal", "recovery columns", "recovery grouped", "recovery large",
    "recovery of all nodes", "recovery of no node",
    "feature recovery", "feature recovery many", "feature recovery few latents", "feature recovery of one",
    "recovery table", "recovery table one seed", "absorption", "absorption one", "absorption many",
    "geometry", "geometry without activations", "geometry nan", "probing", "probing many", "probing one",
    "attribute match", "attribute match many", "probe perturbation", "probe perturbation many",
    "shortcuts", "shortcuts many",
    "coder evaluation", "coder evaluation transcoders", "head attribution", "head attribution many",
    "induction latents",
    "latent", "latent dead", "latent of heads", "latent without logits", "coder", "coder large", "coder dead",
    "coder across sites", "training", "training many", "training one row", "training nothing",
    "training unmeasured",
    "pareto", "pareto one", "pareto equal",
    "bake report", "bake report one", "bake report many", "abstention", "abstention one", "abstention many",
    "condition", "condition one site", "condition many", "gated effects", "gated effects many",
    "gated effects one", "controller", "controller labels", "controller one step", "controller many",
    "directions", "directions many", "directions one", "directions unjudged", "planted", "planted one",
    "planted many", "value vectors", "value vectors many", "value vectors one", "relations", "relations many",
    "relations few",
    "steering evaluation", "steering evaluation many", "steering evaluation one dose",
    "steering evaluation without controls", "steering evaluation unreached", "off target", "off target one",
    "off target many",
    "steering training", "steering training many", "steering training one", "steering training plain",
    "steering search", "steering search ruled out", "steering search unreached", "steering search many",
    "steering search one", "steering search of any dose", "search comparison", "search comparison many",
    "search comparison none passed", "detector", "detector parted", "detector without threshold",
    "detector constant", "guard", "guard of two cells",
    "steering dose", "steering dose one side", "steering dose falling", "steering dose large",
    "steering dose nothing", "steered text", "steered text long", "steered text one", "steered text many",
    "roofline", "roofline of one", "roofline above the roof", "roofline of moves",
]  # fmt: skip
# what no reader sees as text: data, templates (looked at on their own)
HIDDEN = ("bdata", "dtype", "template", "hovertemplate", "texttemplate")
CASES = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def figures(gallery) -> dict[str, go.Figure]:
    """Drawn once: a figure is only read here."""
    return {kind: record.plot() for kind, record in gallery.items()}


@pytest.fixture
def figure(figures, kind) -> go.Figure:
    return figures[kind]


def color_axes(figure):
    """Names of the colour axes that are set, which leaves out the template's."""
    return [
        name
        for name in figure.layout
        if name.startswith("coloraxis") and figure.layout[name].cmax is not None
    ]


def test_every_kind_is_looked_at(gallery):
    assert sorted(gallery) == sorted(KINDS)


def boxes(figure):
    """Plotting areas and tables, in pixels from the top left, largest axes pair first."""
    width, height = figure.layout.width, figure.layout.height
    seen = {}
    for trace in figure.data:
        if trace.type == "table":
            x, y, key = trace.domain.x, trace.domain.y, id(trace)
        else:
            key = (trace.xaxis or "x", trace.yaxis or "y")
            x = figure.layout["xaxis" + key[0][1:]].domain
            y = figure.layout["yaxis" + key[1][1:]].domain
        seen[key] = (x[0] * width, (1 - y[1]) * height, x[1] * width, (1 - y[0]) * height)
    return list(seen.values())


@CASES
def test_panels_lie_inside_the_figure_and_apart(figure):
    found = boxes(figure)
    header = 14 + 22 + 12
    for left, top, right, bottom in found:
        assert 0 <= left < right <= figure.layout.width
        assert header <= top < bottom <= figure.layout.height
    for a, b in itertools.combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (a, b)


@CASES
def test_color_bars_stand_on_no_panel(figure):
    width, height = figure.layout.width, figure.layout.height
    for name in color_axes(figure):
        bar = figure.layout[name].colorbar
        left, top = bar.x * width, (1 - bar.y) * height
        right, bottom = left + 70, top + bar.len
        assert right <= width
        assert bottom <= height
        for box in boxes(figure):
            assert right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top


@CASES
def test_scales_are_diverging_around_0_or_sequential_from_0(figure):
    for name in color_axes(figure):
        axis = figure.layout[name]
        drawn = [
            np.asarray(t.z, dtype=float) for t in figure.data if t.type == "heatmap" and t.coloraxis == name
        ]
        drawn += [
            np.asarray(t.marker.color, dtype=float)
            for t in figure.data
            if t.type == "scatter" and t.marker.coloraxis == name
        ]
        assert drawn
        values = np.concatenate([z.ravel() for z in drawn])
        values = values[np.isfinite(values)]
        colors = [color for _, color in axis.colorscale]
        if axis.cmin < 0:
            assert axis.cmin == -axis.cmax
            assert axis.cmid == 0
            assert colors == list(diverging.RdBu)
        else:
            assert axis.cmin == 0
            assert axis.cmid is None
            assert (values >= 0).all()
            assert not set(colors) & {diverging.RdBu[0], diverging.RdBu[1], diverging.RdBu[2]}
        if values.size:
            assert np.abs(values).max() <= axis.cmax * 1.000001


def test_blue_is_positive(gallery):
    scale = gallery["patching few"].plot().layout.coloraxis.colorscale
    red, _, blue = map(int, re.findall(r"\d+", scale[-1][1]))
    assert scale[-1][0] == 1
    assert blue > red


class Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def texts_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in HIDDEN:
                yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)


@CASES
def test_no_text_is_taken_for_markup(figure):
    """Only <b> and <br> of our own; every < & $ of a token, a model or a role is escaped."""
    for text in texts_of(json.loads(figure.to_json())):
        parser = Markup()
        parser.feed(text)
        assert parser.tags <= {"b", "br"}, text
        assert "<b>store" not in text
        assert "$" not in text, text
        assert not re.search(r"&(?!amp;|lt;|gt;|#36;)", text), text


@CASES
def test_templates_hold_nothing_that_came_with_the_data(figure):
    for trace in figure.data:
        for name in ("hovertemplate", "texttemplate"):
            template = (getattr(trace, name, None) if name in trace else None) or ""
            for field in re.findall(r"%\{(.*?)\}", template):
                assert re.match(r"(hovertext|text|x|y|z|customdata\[\d\])(:.*)?$", field), template


@CASES
def test_category_axes_keep_equal_names_apart(figure):
    for trace in figure.data:
        for axis, names in (("x", getattr(trace, "x", None)), ("y", getattr(trace, "y", None))):
            if trace.type not in ("heatmap", "bar") or names is None:
                continue
            layout = figure.layout[f"{axis}axis" + (trace[f"{axis}axis"] or axis)[1:]]
            if layout.type == "category":
                assert len(set(names)) == len(names)
                assert set(layout.tickvals) <= set(names)
                assert len(layout.tickvals) == len(layout.ticktext)
                assert sorted(layout.range) == [-0.5, len(names) - 0.5]


@CASES
def test_title_says_what_and_subtitle_where_from(figure, kind):
    title, subtitle = figure.layout.title.text, figure.layout.title.subtitle.text
    assert len(title) > 10
    if not kind.startswith("history"):
        assert "mix&lt;4&gt;l &amp; co" in subtitle.replace("<br>", " ")
        # prompts of several tasks have no one number
        assert ("ioi (n=32)" in subtitle.replace("<br>", " ")) != (kind == "comparison many")


@CASES
def test_records_draw_themselves_without_a_trace_outside(gallery, kind, figure, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a plotting function showed its figure")

    monkeypatch.setattr(go.Figure, "show", refuse)
    monkeypatch.setattr(pio, "show", refuse)
    before = pio.templates.default, set(pio.templates)
    record = gallery[kind]
    assert record.plot().to_json() == figure.to_json()
    assert (pio.templates.default, set(pio.templates)) == before
