"""Bars by token and coloured text, read as data."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interp.errors import RecordError
from interp.plots import plot_tokens, token_html
from interp.plots.scales import BLUE, RED, blend_sign, largest_magnitude
from interp.results import Provenance, TokenScores
from interp.results.token_text import visible_token

WORDS = st.text(max_size=12) | st.text(alphabet="<>&\"'/=ab $\n", max_size=12)


class Text(HTMLParser):
    """Coloured spans of tokens, and what stands between them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tokens: list[tuple[str, dict[str, str], str]] = []
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.other = ""
        self._title: str | None = None
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, tuple(found)))
        if tag == "span" and "title" in found:
            self._title = found["title"]
            style = dict(part.split(":", 1) for part in found["style"].split(";"))
            self.tokens.append(("", style, self._title))

    def handle_endtag(self, tag):
        if tag == "span":
            self._title = None

    def handle_data(self, data):
        if self._title is None:
            self.other += data
        else:
            text, *rest = self.tokens[-1]
            self.tokens[-1] = (text + data, *rest)


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_a_panel_a_prompt_with_bars_in_reading_order(make_tokens):
    scores = make_tokens()
    figure = plot_tokens(scores)
    assert len(figure.data) == 3
    for row, bar in enumerate(figure.data):
        expected = scores.values[row, : len(scores.tokens[row])].numpy()
        np.testing.assert_allclose(np.asarray(bar.y, dtype=float), expected, rtol=1e-6)
        assert [key.split()[0] for key in bar.x] == [str(i) for i in range(len(expected))]
        assert list(bar.marker.color) == [RED if value < 0 else BLUE for value in expected]
    assert figure.data[0].x[4] == "4 ·&lt;b&gt;store&lt;/b&gt;"


def test_all_prompts_shown_share_symmetric_limits_and_no_other_counts(make_tokens):
    scores = make_tokens((4, 6, 5), hole=False)
    scores.values[2, 1] = 50.0
    figure = plot_tokens(scores, prompts=2)
    largest = float(scores.values[:2].nan_to_num(0.0).abs().max())
    for axis in (figure.layout.yaxis, figure.layout.yaxis2):
        assert axis.range == pytest.approx((-1.05 * largest, 1.05 * largest))
    assert "the first 2 of 3 prompts" in subtitle(figure)
    assert plot_tokens(scores).layout.yaxis.range == pytest.approx((-52.5, 52.5))
    assert "of 3 prompts" not in subtitle(plot_tokens(scores))


def test_hover_and_titles(make_tokens):
    figure = plot_tokens(make_tokens())
    hover = figure.data[0].hovertext[4]
    value = make_tokens().values[0, 4]
    assert hover == (
        f"<b>·&lt;b&gt;store&lt;/b&gt;</b><br>position 4 of prompt 0<br>contribution {value:+.4g} (logit difference)"
    )
    assert (
        figure.layout.title.text
        == "What each token of the clean prompts contributes to logit difference, by relevance"
    )
    total = float(make_tokens().total[0])
    assert figure.layout.annotations[0].text == f"prompt 0 · logit difference -1 · sum {total:.3g}"
    undefined = plot_tokens(make_tokens(metric=torch.full((3,), float("nan"))))
    assert "logit difference undefined" in undefined.layout.annotations[0].text


def test_nothing_to_show(make_tokens):
    for draw in (plot_tokens, token_html):
        with pytest.raises(RecordError, match="at least one prompt must be shown; got prompts=0"):
            draw(make_tokens(), prompts=0)
    flat = make_tokens((3,), hole=False, values=torch.zeros(1, 3), metric=torch.zeros(1))
    assert plot_tokens(flat).layout.yaxis.range == (-1.05, 1.05)


def test_text_has_every_token_as_it_is_with_its_number(make_tokens):
    scores = make_tokens()
    found = Text(token_html(scores)).tokens
    expected = [
        (token, row, pos) for row, tokens in enumerate(scores.tokens) for pos, token in enumerate(tokens)
    ]
    assert len(found) == len(expected)
    for (text, _, title), (token, row, pos) in zip(found, expected, strict=True):
        value = float(scores.values[row, pos])
        number = "no value" if value != value else f"{value:+.4g}"
        assert text == visible_token(token)
        assert title == f"position {pos}: {visible_token(token)}  {number}"


def test_colours_go_by_value_on_one_scale(make_tokens):
    values = torch.tensor([[0.0, 2.0, -4.0, float("nan")], [4.0, -1.0, float("nan"), float("nan")]])
    scores = make_tokens(tokens=(tuple("abcd"), tuple("ef")), values=values, metric=torch.zeros(2))
    colors = {text: style["background"] for text, style, _ in Text(token_html(scores)).tokens}
    assert colors["a"] == "rgb(255,255,255)"
    assert colors["c"] == RED
    assert colors["e"] == BLUE
    assert colors["b"] == blend_sign(0.5)
    assert colors["f"] == blend_sign(-0.25)
    assert colors["d"] == "rgb(190,190,190)"
    alone = {text: style["background"] for text, style, _ in Text(token_html(scores, prompts=1)).tokens}
    assert alone["c"] == RED
    half = scores.values.clone()
    half[0, 2] = 0.0
    other = Text(token_html(make_tokens(tokens=scores.tokens, values=half, metric=torch.zeros(2)), prompts=1))
    assert {text: style["background"] for text, style, _ in other.tokens}["b"] == BLUE


def contrast(first, second):
    def luminance(color):
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_is_set_and_readable(make_tokens):
    values = torch.linspace(-1, 1, 201)[None]
    scores = make_tokens(tokens=(("x",) * 201,), values=values, metric=torch.zeros(1))
    markup = token_html(scores)
    for _, style, _ in Text(markup).tokens:
        assert contrast(style["color"], style["background"]) >= 4.5, style
    assert re.match(r'<div [^>]*style="background:white;color:rgb\(40,40,40\)', markup)


def test_legend_and_prompts_say_what_they_are(make_tokens):
    scores = make_tokens()
    text = Text(token_html(scores, prompts=2)).other
    limit = largest_magnitude([scores.values[:2].numpy()])
    assert f"−{limit:.3g}" in text
    assert f"+{limit:.3g} · contribution to logit difference: blue speaks for it, red against it" in text
    assert "grey: no value" in text
    assert "the first 2 of 3 prompts" in text
    assert f"prompt 1 · logit difference 1.5 · sum {float(scores.total[1]):.3g}" in text
    assert "grey" not in Text(token_html(make_tokens(hole=False))).other
    assert f"linear-gradient(to right,{RED},rgb(255,255,255),{BLUE})" in token_html(scores)


def test_a_line_of_text_breaks_where_the_prompt_breaks(make_tokens):
    scores = make_tokens((2,), hole=False, tokens=(("a\n", "b"),), metric=torch.zeros(1))
    assert token_html(scores).count("<br>") == 1


def test_notebooks_do_not_set_it_as_mathematics(make_tokens):
    assert token_html(make_tokens()).startswith('<div class="tex2jax_ignore mathjax_ignore"')


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), WORDS, WORDS)
@example(['"><i x="'], '<i class="x">', "<script>")
def test_no_text_becomes_markup(tokens, metric, model):
    """Tags and attributes are ours alone, and the tokens read back, whatever they hold."""
    scores = TokenScores(
        (tuple(tokens),),
        torch.linspace(-1, 1, len(tokens))[None],
        torch.zeros(1),
        "clean",
        Provenance(model, task=metric, metric=metric or None, method=metric),
    )
    found = Text(token_html(scores))
    assert {tag for tag, _ in found.tags} <= {"div", "span", "br"}
    assert {name for _, names in found.tags for name in names} <= {"style", "title", "class"}
    assert [text for text, *_ in found.tokens] == [visible_token(token) for token in tokens]
    shown = " ".join(html.unescape(token_html(scores)).split())
    assert " ".join(metric.split()) in shown
