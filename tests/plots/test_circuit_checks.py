"""Pictures of a checked circuit, read as data."""

from __future__ import annotations

import pytest
import torch
from toy_checks import make_check, make_completeness, make_minimality, make_minimality_test, make_test

from interp.plots import plot_circuit_check, plot_completeness, plot_hypothesis_test, plot_minimality
from interp.plots.scales import BLUE, RED


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_completeness_is_circuit_against_model():
    found = make_completeness()
    figure = plot_completeness(found)
    circuit, model = found.faithfulness()
    one = next(trace for trace in figure.data if trace.name == "one node")
    assert list(one.x) == pytest.approx(model[1:3].tolist())
    assert list(one.y) == pytest.approx(circuit[1:3].tolist())
    assert one.hovertext[0] == "<b>m0</b><br>circuit 0.500<br>model 0.750<br>differ by 25.0% of the gap"
    assert [t.name for t in sorted(figure.data[1:], key=lambda t: t.legendrank)] == [
        "nothing knocked out",
        "one node",
        "random nodes",
        "greedily the worst",
        "named groups",
    ]
    diagonal = figure.data[0]
    assert list(diagonal.x) == list(diagonal.y) == list(figure.layout.xaxis.range)
    worst = figure.layout.annotations[0]
    assert (worst.x, worst.y) == pytest.approx((1.0, 0.0))
    assert worst.text.startswith("worst: a0.h0 + a0.h1 + ")
    assert " + 10 more</b>" in next(t for t in figure.data if t.name == "greedily the worst").hovertext[0]


def test_minimality_is_bars_with_the_largest_on_top():
    figure = plot_minimality(make_minimality())
    bars, alone = figure.data
    assert list(bars.y) == ["m0", "a0.h1", "m1"]
    assert list(bars.x) == pytest.approx([0.5, 0.2, 0.001])
    assert list(bars.marker.color) == [BLUE, RED, BLUE]
    assert list(alone.x) == pytest.approx([0.5, 0.2, 0.0])
    assert figure.layout.yaxis.range == (2.5, -0.5)
    assert bars.hovertext[2] == (
        "<b>m1</b><br>changes the metric by 0.1% of the gap<br>beside m0 + a0.h1<br>alone by +0.0%"
    )


def test_of_many_items_the_least_needed_are_drawn():
    names = tuple(f"input->m{i}" for i in range(90))
    figure = plot_minimality(make_minimality(names, of="edges", n_sets=1))
    assert len(figure.data) == 1
    assert len(figure.data[0].x) == 40
    assert figure.data[0].y[-1] == "input-&gt;m89"
    assert "the 40 least needed of 90 edges" in subtitle(figure)


@pytest.mark.parametrize(("p", "color"), [(0.01, BLUE), (0.5, RED)])
def test_sufficiency_is_blue_where_it_is_rejected(p, color):
    test = make_test("sufficiency", p)
    figure = plot_hypothesis_test(test)
    reference, seen = figure.data
    assert list(reference.x) == pytest.approx(test.reference.clamp(min=float(test.reference[1])).tolist())
    assert list(seen.x) == pytest.approx([0.3])
    assert list(seen.marker.color) == [color]
    assert list(figure.layout.yaxis.ticktext) == ["random circuits", "the circuit"]
    assert f"p = {p:.2g}, n = 30, level 0.05" in subtitle(figure)


def test_edges_are_coloured_one_by_one():
    figure = plot_hypothesis_test(make_minimality_test())
    seen = figure.data[1]
    assert list(seen.marker.color) == [BLUE, RED, BLUE]
    assert seen.hovertext[1] == "<b>a1.h0-&gt;m1</b><br>0<br>p = 1e-12"
    assert figure.layout.xaxis.type == "log"
    # 0 has no logarithm and stands at the left end
    assert seen.x[1] == min(seen.x) > 0
    assert all("e" not in text for text in figure.layout.xaxis.ticktext)
    assert "corrected for 3 (holm)" in subtitle(figure)


def test_what_the_null_hypothesis_of_equivalence_allows_is_a_bar():
    figure = plot_hypothesis_test(make_test("equivalence", 0.2))
    assert list(figure.data[0].x) == pytest.approx([0.4, 0.6])
    assert figure.data[0].mode == "lines"
    assert figure.layout.xaxis.range == (-0.02, 1.02)
    assert list(figure.data[1].marker.color) == [BLUE]


def test_values_of_one_size_have_a_linear_axis():
    figure = plot_hypothesis_test(make_test("sufficiency", reference=torch.linspace(0.5, 1, 9)))
    assert figure.layout.xaxis.type == "linear"
    nothing = plot_hypothesis_test(make_test(reference=torch.zeros(3), observed=torch.zeros(1)))
    assert nothing.layout.xaxis.type == "linear"


def test_points_that_are_equal_stand_apart_and_at_the_same_place_every_time():
    first, again = (plot_hypothesis_test(make_test(reference=torch.ones(9))) for _ in range(2))
    assert len(set(first.data[0].y)) == 9
    assert first.to_json() == again.to_json()


def test_a_check_has_every_part_and_a_table_of_tests():
    check = make_check()
    figure = plot_circuit_check(check)
    table = next(trace for trace in figure.data if trace.type == "table")
    tests, nulls, p, outcome, ideal = table.cells["values"]
    assert tuple(tests) == ("equivalence", "independence", "minimality", "sufficiency", "partial necessity")
    assert nulls[0] == "nothing of the equivalence &lt;b&gt;test&lt;/b&gt; &amp; &#36;co&#36;"
    assert tuple(p) == ("0.2", "0.001", "1e-12", "0.01", "0.9")
    assert tuple(outcome) == tuple(test.verdict for test in check.tests)
    assert tuple(ideal) == ("yes", "no", "no", "yes", "no")
    titles = [note.text for note in figure.layout.annotations]
    for title in (
        "faithful?",
        "complete? the same nodes knocked out",
        "minimal? each node taken out",
        *tests,
    ):
        assert title in titles
    own, *random = figure.data[:4]
    assert list(own.x) == pytest.approx([3 / 46])
    assert [trace.y[0] for trace in random] == [1, 2, 3]
    assert "3 of 46 edges, 4 nodes" in subtitle(figure)
