"""Where a steering acted: coloured text and bars, and the text made from a run."""

from __future__ import annotations

import html
import re

import pytest
import torch
from fake_steering_dose import fake_text

import interp
from interp.errors import RecordError, SteeringError
from interp.plots import plot_steered_text, steered_text_html
from interp.plots.scales import MISSING, WHITE, blend_sign
from interp.results import SteeredText
from interp.results.token_text import visible_token
from interp.steering.apply import apply_rows
from interp.steering.operations import Add
from interp.steering.steering import steer_with

SPAN = re.compile(r'<span style="([^"]*)" title="([^"]*)">([^<]*)</span>')


def spans_of(text: SteeredText, **options):
    """Style, hover and text of every token and of the bars at the ends of prompts."""
    return [tuple(map(html.unescape, found)) for found in SPAN.findall(steered_text_html(text, **options))]


def test_backgrounds_are_strengths_on_one_scale():
    text = fake_text()
    limit = float(text.strength.nan_to_num(0).abs().max())
    spans = [span for span in spans_of(text) if span[1] != "end of the prompt"]
    flat = [(row, pos) for row, tokens in enumerate(text.tokens) for pos in range(len(tokens))]
    assert len(spans) == len(flat)
    for (style, says, shown), (row, pos) in zip(spans, flat, strict=True):
        value = float(text.strength[row, pos])
        color = MISSING if value != value else WHITE if value == 0 else blend_sign(value / limit)
        assert f"background:{color};" in style
        assert shown == visible_token(text.tokens[row][pos])
        generated = pos >= int(text.n_prompt[row])
        assert ("font-weight:600" in style) == generated
        assert f"position {pos} of row {row}, {'generated' if generated else 'prompt'}" in says
        assert says.endswith("not read" if value != value else f"{value:+.4g}" if value else "not steered")


def test_a_bar_stands_between_prompt_and_continuation():
    markup = steered_text_html(fake_text())
    assert markup.count('title="end of the prompt"') == 3
    assert 'title="end of the prompt"' not in steered_text_html(fake_text(((4, 0),)))


def test_heads_say_what_was_asked_and_nothing_is_markup():
    markup = steered_text_html(fake_text())
    assert "row 0 · dose +0.5 nats · add(resid_post[1]@-1,gen)" in markup
    assert "row 1 · not steered" in markup
    assert "strength +0.5" in steered_text_html(fake_text(unit="strength"))
    assert "·<b>" not in markup
    assert "·&lt;b&gt;" in markup
    assert "the first 2 of 3 rows" in steered_text_html(fake_text(), rows=2)
    assert fake_text()._repr_html_() == markup


def test_bars_are_strengths_with_a_line_where_the_prompt_ends():
    text = fake_text()
    figure = plot_steered_text(text)
    assert len(figure.data) == 3
    assert list(figure.data[0].y[:-1]) == pytest.approx(text.strength[0, :14].tolist())
    assert [shape.x0 for shape in figure.layout.shapes] == [5.5, 2.5, 7.5]
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range


def test_less_than_one_row():
    for draw in (plot_steered_text, steered_text_html):
        with pytest.raises(RecordError, match="at least one row"):
            draw(fake_text(), rows=0)


@pytest.fixture(scope="module")
def mix():
    return interp.load_model("mix-4l")


def steering(site: str):
    return steer_with({site: Add(torch.ones(128))}, method="ones")


def test_a_generation_as_text(mix):
    """Prompts of unequal length, padded on the left; the last token is written and not read."""
    prompts = ["The baker is", "The old baker and the farmer"]
    with steering("resid_post[1]@-1,gen").apply(mix, strength=[0.5, -1.0]) as applied:
        tokens = mix.generate(prompts, 5)
    text = applied.text(tokens)
    lengths = [mix.to_tokens(prompt).shape[1] for prompt in prompts]
    assert text.n_prompt.tolist() == lengths
    for row, (n, strength) in enumerate(zip(lengths, (0.5, -1.0), strict=True)):
        own = tokens[row, -(n + 5) :]
        assert list(text.tokens[row]) == mix.to_str_tokens(own)
        assert text.strength[row, : n + 4].tolist() == [0.0] * (n - 1) + [strength] * 5
        assert bool(text.strength[row, n + 4 :].isnan().all())
    assert (text.unit, text.asked.tolist()) == ("strength", [0.5, -1.0])
    assert text.steering == ("add(resid_post[1]@-1,gen)",) * 2
    assert text.provenance.method == "ones"
    read_only = applied.text()
    assert [len(row) for row in read_only.tokens] == [n + 4 for n in lengths]
    with pytest.raises(SteeringError, match="do not begin with those that were read last"):
        applied.text(tokens.flip(0))


def test_right_padding_and_rows_without_a_steering(mix):
    tokens, mask = mix.to_padded_tokens(["The baker is", "The old baker and the farmer"])
    with apply_rows(mix, [None, steering("resid_post[1]@1:3")], strength=2.0) as applied, torch.no_grad():
        mix(tokens, mask)
    text = applied.text()
    assert [len(row) for row in text.tokens] == mask.sum(1).tolist()
    assert text.steering[0] == ""
    assert text.asked.tolist() == [0.0, 2.0]
    assert text.strength[1].nan_to_num(-9).tolist()[:4] == [0.0, 2.0, 2.0, 0.0]
    assert float(text.strength[0].nansum()) == 0.0


def test_several_continuations_of_a_prompt(mix):
    with apply_rows(mix, [steering("resid_post[1]@gen"), None], strength=0.1) as applied:
        tokens = mix.generate(["The baker", "The farmer"], 3, do_sample=True, num_return_sequences=2)
    text = applied.text(tokens)
    assert [bool(one) for one in text.steering] == [True, True, False, False]
    assert text.asked.tolist() == pytest.approx([0.1, 0.1, 0.0, 0.0])
