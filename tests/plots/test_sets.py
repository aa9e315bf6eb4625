"""Figures of sets, read as data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from interp.plots import plot_sets
from interp.plots.set_panels import MOST_MEMBERS


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def title(figure):
    return figure.layout.title.text.replace("<br>", " ")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_pairs_are_a_map_of_interactions_beside_single_effects(make_sets, direction):
    scores = make_sets(6, direction=direction)
    pairs, alone, by_interaction, by_effect = plot_sets(scores).data
    table = scores.matrix().numpy()
    assert np.asarray(pairs.z) == pytest.approx(table, nan_ok=True)
    assert list(pairs.x) == list(pairs.y) == list(alone.y) == list(scores.members)
    assert list(alone.x) == pytest.approx(scores.single_effects.tolist())
    assert pairs.hovertext[1][4] == "L0H1 + L0H4"
    assert pairs.hovertext[2][2] == "L0H2"
    interaction, value, row, column = pairs.customdata[1][4]
    assert interaction == pytest.approx(float(table[1, 4]))
    assert value == pytest.approx(float(scores.matrix("value")[1, 4]))
    assert (row, column) == pytest.approx(scores.single_values[[1, 4]].tolist())
    assert pairs.customdata[2][2][1] == pytest.approx(float(scores.single_values[2]))
    for drawn, by in ((by_interaction, "interaction"), (by_effect, "effect")):
        top = scores.top(10, by=by)
        assert list(drawn.cells["values"][0]) == [row.name for row in top]
        signed = [float(text.replace("−", "-")) for text in drawn.cells["values"][3]]
        assert signed == pytest.approx([row.interaction for row in top], abs=6e-4)


def test_rows_of_the_map_and_of_the_bars_are_level(make_sets):
    figure = plot_sets(make_sets(6, direction="noise"))
    assert figure.layout.yaxis.domain == pytest.approx(figure.layout.yaxis2.domain)
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range
    assert figure.layout.xaxis2.title.text == "recovered score − 1"
    assert "15 pairs patched together: corrupted activations" in title(figure)
    assert "effect: recovered score − 1" in subtitle(figure)


def test_pairs_that_were_not_patched_and_equal_baselines_are_said(make_sets):
    assert "pairs not patched" in subtitle(plot_sets(make_sets(sets=[[0, 1], [2, 5]])))
    assert "pairs not patched" not in subtitle(plot_sets(make_sets()))
    assert "undefined" in subtitle(plot_sets(make_sets(clean=1.0, corrupted=1.0)))


def test_of_very_many_members_the_strongest_are_drawn(make_sets):
    n = MOST_MEMBERS + 5
    sets = [[i, i + 1] for i in range(n - 1)]
    scores = make_sets(n, sets=sets, members=tuple(f"mlp_post L0 n{i}" for i in range(n)))
    # as many members without any interaction, which must go
    raw = scores.single_raw[scores.sets].sum(1) - scores.corrupted
    raw[10:] += 1.0
    scores = make_sets(n, sets=sets, members=scores.members, raw=raw)
    figure = plot_sets(scores)
    assert np.asarray(figure.data[0].z).shape == (MOST_MEMBERS, MOST_MEMBERS)
    assert list(figure.data[1].y) == list(figure.data[0].y)
    assert "mlp_post L0 n0" not in figure.data[0].y
    assert f"the {MOST_MEMBERS} members with the strongest interactions of {n}" in subtitle(figure)


def test_larger_sets_are_bars_with_the_sum_of_their_members(make_sets):
    scores = make_sets(8, 3)
    bars, diamonds, alone = plot_sets(scores).data
    top = scores.top(20)
    assert list(bars.x) == pytest.approx([row.effect for row in top])
    assert list(diamonds.x) == pytest.approx([row.effect - row.interaction for row in top])
    assert list(bars.y) == list(diamonds.y)
    assert f"<b>{top[0].name}</b>" in bars.hovertext[0]
    assert f"interaction {top[0].interaction:+.3f}" in bars.hovertext[0]
    assert max(map(abs, alone.x)) == pytest.approx(float(scores.single_effects.abs().max()))
    assert len(alone.x) == 8
    assert "56 sets of 3 places" in title(plot_sets(scores))


def test_mixed_sizes_are_bars(make_sets):
    figure = plot_sets(make_sets(5, sets=[[0, 1, -1], [0, 1, 2]]))
    assert figure.data[0].type == "bar"
    assert "2 sets of 2 to 3 places" in title(figure)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_greedy_path_is_a_line_over_all_that_was_tried(make_path, direction):
    made = make_path()
    scores = dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, direction=direction))
    figure = plot_sets(scores)
    tried, sums, line = figure.data[:3]
    path = scores.path.tolist()
    assert list(line.y) == pytest.approx(scores.values[path].tolist())
    assert list(sums.y) == pytest.approx((scores.additive[path] + scores.nothing).tolist())
    # what was not chosen: five singles, three more pairs, two more triples
    assert [list(tried.x).count(key) for key in line.x] == [5, 3, 2]
    assert list(tried.y)[:5] == pytest.approx(scores.single_values.tolist())
    added = ["resid_pre L1 @ &lt;s&gt;", "+ z &amp; &#36;q", "+ mlp_out L0"]
    assert list(figure.layout.xaxis.ticktext) == added
    assert title(figure).startswith("Greedy search for 3 of 5 places")
