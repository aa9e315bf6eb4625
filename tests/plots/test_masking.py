"""Damage from masking, read as data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.plots import plot_masking
from interp.results import Estimate


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def lines_of(figure):
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def test_lines_are_means_over_prompts_and_random_draws(make_masking):
    check = make_masking()
    first, random, last = lines_of(plot_masking(check))
    assert [trace.name for trace in (first, random, last)] == [
        "tokens ranked first",
        "as many at random",
        "tokens ranked last",
    ]
    for trace, damage in ((first, check.most), (random, check.random.mean(1)), (last, check.least)):
        assert list(trace.x) == [0.1, 0.25, 0.5]
        np.testing.assert_allclose(trace.y, damage.mean(1), rtol=1e-6)
    assert len({trace.line.color for trace in (first, random, last)}) == 3


def test_bands_are_standard_errors_over_prompts(make_masking):
    check = make_masking()
    bands = [trace for trace in plot_masking(check).data if trace.fill == "toself"]
    damage = check.random.double().mean(1)
    error = damage.std(1) / 6**0.5
    expected = torch.cat([damage.mean(1) - error, (damage.mean(1) + error).flip(0)])
    assert list(bands[1].x) == [0.1, 0.25, 0.5, 0.5, 0.25, 0.1]
    np.testing.assert_allclose(bands[1].y, expected, rtol=1e-5)
    assert "bands: standard error over 6 prompts" in subtitle(plot_masking(check))
    assert "random: mean of 4 draws" in subtitle(plot_masking(check))


def test_shares_are_drawn_in_order(make_masking):
    check = make_masking()
    turned = make_masking(
        fractions=check.fractions[::-1],
        most=check.most.flip(0),
        least=check.least.flip(0),
        random=check.random.flip(0),
        gaps=check.gaps[::-1],
    )
    assert plot_masking(turned).to_json() == plot_masking(check).to_json()


def test_gaps_have_their_intervals_and_are_hollow_where_nothing_was_shown(make_masking):
    check = make_masking()
    gaps = plot_masking(check).data[-1]
    assert list(gaps.y) == [2.0, 1.0, 0.0]
    assert (list(gaps.error_y.array), list(gaps.error_y.arrayminus)) == ([0.75] * 3, [0.5] * 3)
    assert list(gaps.marker.color)[2] == "white"
    assert "white" not in list(gaps.marker.color)[:2]
    assert gaps.hovertext[2] == "<b>50% masked</b><br>first minus last 0.00 [-0.50, 0.75]<br>not told apart"
    assert "hollow" in subtitle(plot_masking(check))
    assert "hollow" not in subtitle(plot_masking(make_masking((0.1,))))


def test_title_names_the_ranking_and_subtitle_what_masked(make_masking):
    figure = plot_masking(make_masking())
    assert figure.layout.title.text == "Tokens masked in the order of relevance: first, last and at random"
    assert "masked with zeros in the clean run (hooked)" in subtitle(figure)
    assert "95% intervals" in figure.layout.annotations[1].text
    sites = plot_masking(make_masking(what="z@<pos>"))
    assert sites.layout.title.text.startswith("Places of z@&lt;pos&gt; masked")
    assert lines_of(sites)[0].name == "places of z@&lt;pos&gt; ranked first"


@pytest.mark.parametrize("prompts", [1, 5])
def test_one_share_has_whiskers_and_one_prompt_none(make_masking, prompts):
    figure = plot_masking(make_masking((0.2,), prompts=prompts, draws=1))
    assert not [trace for trace in figure.data if trace.fill == "toself"]
    error = lines_of(figure)[0].error_y.array
    assert (error is None) == (prompts == 1)
    assert ("whiskers: standard error over 5 prompts" in subtitle(figure)) == (prompts == 5)
    assert "random: one draw" in subtitle(figure)
    assert ("±" in lines_of(figure)[0].hovertext[0]) == (prompts == 5)


def test_axes_hold_0_and_all_intervals(make_masking):
    figure = plot_masking(make_masking(gaps=tuple(Estimate(-3.0, -9.0, -1.0) for _ in range(3))))
    low, high = figure.layout.yaxis2.range
    assert low < -9 < 0 < high
    low, high = figure.layout.yaxis.range
    assert low < 0
    assert high > float(make_masking().most.mean(1).max())
    assert figure.layout.xaxis.range[0] < 0 < 0.5 < figure.layout.xaxis.range[1]


def test_undefined_differences_are_said(make_masking):
    gaps = (Estimate(2.0, 1.0, 3.0), Estimate(*[float("nan")] * 3), Estimate(1.0, 0.5, 2.0))
    text = subtitle(plot_masking(make_masking(gaps=gaps)))
    assert "1 of 3 differences undefined and not drawn" in text
    assert "hollow" not in text
