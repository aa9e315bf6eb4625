"""Figures of discrete codes, read as data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_discrete import make_discrete

from interp.errors import CircuitError
from interp.plots import plot_discrete_circuit
from interp.plots.discrete import MOST_CODES, MOST_HEADS


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def table(trace):
    return np.asarray(trace.z, dtype=float)


def test_heads_are_maps_of_both_parts_with_stars_for_small_p():
    made = make_discrete()
    held_out, trained = plot_discrete_circuit(made).data[:2]
    assert table(held_out) == pytest.approx(made.head_scores().numpy())
    assert table(trained) == pytest.approx(made.head_scores("train").numpy())
    assert (held_out.name, trained.name) == ("held-out prompts", "prompts trained on")
    assert held_out.coloraxis == trained.coloraxis
    scores = made.head_scores()
    assert held_out.text[0][1] == f"{scores[0, 1]:.0f}*"
    assert held_out.text[2][2] == f"{scores[2, 2]:.0f}**"
    assert held_out.text[1][3] == f"{scores[1, 3]:.0f}"
    assert not any("*" in text for row in trained.text for text in row)
    assert held_out.hovertext[2][2] == "L2H2"
    tables = (scores, made.head_variety(), made.p_values, made.family_p_values, made.null_means)
    known = [float(table[1, 2]) for table in (*tables, made.head_scores("train"))]
    assert list(held_out.customdata[1][2]) == pytest.approx(known)
    assert trained.customdata[1][2][2] == scores[1, 2]


@pytest.mark.parametrize("on", ["held_out", "train"])
def test_edges_are_senders_against_receivers(on):
    made = make_discrete()
    edges = plot_discrete_circuit(made, on).data[2]
    assert list(edges.x) == [f"L{layer}H{head}" for layer in (0, 1) for head in range(4)]
    assert list(edges.y) == [f"L{layer}H{head}" for layer in (1, 2) for head in range(4)]
    expected = made.edge_scores(on).numpy()[:8, 4:].T
    assert table(edges) == pytest.approx(expected, nan_ok=True)
    assert edges.hovertext[5][2] == "L0H2 → L2H1"
    assert np.isnan(table(edges)[0, 4])


@pytest.mark.parametrize("on", ["held_out", "train"])
def test_codes_are_the_difference_of_the_shares(on):
    made = make_discrete()
    codes = plot_discrete_circuit(made, on).data[3]
    positive, negative = (side.numpy() for side in made.code_usage(on))
    kept = (positive + negative).sum(0) > 0
    assert table(codes) == pytest.approx((positive - negative)[:, kept])
    assert list(codes.x) == ["none" if code == 9 else str(code) for code in range(10) if kept[code]]
    assert codes.customdata[3][1][1] == pytest.approx(positive[:, kept][3, 1])
    assert codes.customdata[3][1][2] == pytest.approx(negative[:, kept][3, 1])
    assert codes.hovertext[5][0] == "L1H1, code 0"


def test_codes_that_no_head_shows_are_no_columns():
    made = make_discrete()
    codes = plot_discrete_circuit(replace(made, codes=made.codes.clamp(min=2, max=4))).data[3]
    assert list(codes.x) == ["2", "3", "4"]


def test_title_and_subtitle_say_what_was_counted_on_what():
    figure = plot_discrete_circuit(make_discrete())
    assert figure.layout.title.text == "Heads by codes that positive prompts alone show: number of codes"
    text = subtitle(figure)
    assert "mix&lt;4&gt;l &amp; co · ioi (n=32) · discrete coder" in text
    assert "8 held-out prompts and 16 trained on" in text
    assert "p &lt; 0.05 under 500 shuffles of the labels in pairs, ** corrected for 12 heads" in text
    assert "in pairs" not in subtitle(plot_discrete_circuit(make_discrete(paired=False)))
    shares = plot_discrete_circuit(make_discrete(normalised=True))
    assert "share of a head's codes" in shares.layout.title.text
    assert shares.layout.coloraxis.colorbar.title.text == "share of codes"
    assert float(table(shares.data[0]).max()) <= 1


def test_of_very_many_heads_and_codes_the_strongest_are_drawn():
    figure = plot_discrete_circuit(make_discrete(12, 20, 40, 500))
    heads, _, edges, codes = figure.data
    assert table(heads).shape == (12, 20)
    # stars alone, where numbers cannot be read
    assert heads.text[-1][2] == "**"
    assert len(codes.y) == MOST_HEADS
    assert len(codes.x) == MOST_CODES
    assert len(set(edges.x) | set(edges.y)) == MOST_HEADS
    text = subtitle(figure)
    assert f"edges: the {MOST_HEADS} heads that score highest of 240" in text
    assert f"codes: the {MOST_HEADS} heads that score highest of 240" in text
    assert f"codes: the {MOST_CODES} seen most often of 501" in text


def test_one_layer_has_no_edges():
    figure = plot_discrete_circuit(make_discrete(n_layers=1))
    assert len(figure.data) == 3
    assert "grey" not in subtitle(figure)


def test_other_parts_are_refused():
    with pytest.raises(CircuitError, match="unknown part of the prompts 'test'"):
        plot_discrete_circuit(make_discrete(), "test")
