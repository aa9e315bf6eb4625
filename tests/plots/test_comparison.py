"""Methods side by side, read as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.errors import RecordError
from interp.plots import plot_comparison
from interp.results import Estimate, MethodComparison
from interp.results.comparison import STATISTICS

CASES = (("gpt2", "ioi"), ("gpt2", "greater_than"), ("org/other-model", "ioi"))


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def points(figure, axis="x"):
    return [trace for trace in figure.data if (trace.xaxis or "x") == axis]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_points_are_the_statistic_with_its_interval(make_comparison, statistic):
    found = make_comparison(CASES)
    figure = plot_comparison(found, statistic)
    for axis, site in (("x", "resid_pre"), ("x2", "z")):
        for trace, method in zip(points(figure, axis), found.methods, strict=True):
            rows = [found.at(*case, site, method) for case in CASES]
            estimates = [getattr(row, statistic) for row in rows]
            assert list(trace.y) == [estimate.value for estimate in estimates]
            assert list(trace.error_y.array) == pytest.approx([0.1] * 3)
            assert list(trace.error_y.arrayminus) == pytest.approx([0.05] * 3)
            assert [round(x) for x in trace.x] == [0, 1, 2]
            assert trace.name == method
    assert figure.layout.annotations[1].text == "z"


def test_methods_stand_side_by_side_and_differ_by_colour_and_marker(make_comparison):
    figure = plot_comparison(make_comparison(CASES, [f"m{i}" for i in range(20)]))
    drawn = points(figure)
    first = [trace.x[0] for trace in drawn]
    assert first == sorted(first)
    assert len(set(first)) == 20
    assert -0.5 < min(first) < 0 < max(first) < 0.5
    assert len({(trace.marker.color, trace.marker.symbol) for trace in drawn}) == 20
    other = points(figure, "x2")
    assert [t.marker.color for t in other] == [t.marker.color for t in drawn]


def test_each_method_is_in_the_legend_once(make_comparison):
    found = make_comparison(CASES)
    named = [trace.name for trace in plot_comparison(found).data if trace.showlegend is not False]
    assert named == list(found.methods)
    rows = tuple(row for row in found.rows if (row.site, row.method) != ("resid_pre", "ig"))
    missing = plot_comparison(replace(found, rows=rows))
    assert sorted(t.name for t in missing.data if t.showlegend is not False) == sorted(found.methods)


def test_range_is_from_0_or_below_to_1(make_comparison):
    found = make_comparison(CASES)
    shown = replace(found, rows=tuple(replace(row, pearson=Estimate(0.9, 0.8, 0.95)) for row in found.rows))
    figure = plot_comparison(shown)
    assert figure.layout.yaxis.range == figure.layout.yaxis2.range == pytest.approx((-0.03, 1.03))
    rows = (replace(shown.rows[0], pearson=Estimate(-0.2, -0.6, 0.1)), *shown.rows[1:])
    low, high = plot_comparison(replace(shown, rows=rows)).layout.yaxis2.range
    assert low == pytest.approx(-0.6 - 0.03 * 1.6)
    assert high > 1


def test_cases_are_named_by_what_differs(make_comparison):
    assert plot_comparison(make_comparison(CASES)).layout.xaxis.ticktext == (
        "gpt2 · ioi",
        "gpt2 · greater_than",
        "other-model · ioi",
    )
    assert plot_comparison(make_comparison(CASES[:2])).layout.xaxis.ticktext == ("ioi", "greater_than")
    assert plot_comparison(make_comparison(CASES[::2])).layout.xaxis.ticktext == ("gpt2", "other-model")
    assert plot_comparison(make_comparison(CASES[2:])).layout.xaxis.ticktext == ("other-model · ioi",)
    assert "gpt2, org/other-model · ioi, greater_than · logit difference" in subtitle(
        plot_comparison(make_comparison(CASES))
    )


def test_costs_by_method_with_exact_patching_among_them(make_comparison):
    found = make_comparison(CASES)
    figure = plot_comparison(found)
    seconds, memory = points(figure, "x3"), points(figure, "x4")
    assert [trace.y[0] for trace in seconds] == ["exact", *found.methods]
    assert figure.layout.yaxis3.range == (4.5, -0.5)
    assert list(seconds[2].x) == pytest.approx([0.3] * 3)
    assert [trace.x[0] for trace in memory] == [1, 2, 3, 4, 5]
    assert figure.layout.xaxis3.type == "log"
    assert list(figure.layout.xaxis3.ticktext) == ["0.1", "0.2", "0.5"]
    assert seconds[1].hovertext[2] == "<b>attribution</b><br>org/other-model · ioi<br>seconds: 0.2"
    assert seconds[1].marker == points(figure)[0].marker


def test_unknown_memory_and_costs_are_left_out(make_comparison):
    assert not points(plot_comparison(make_comparison(memory=False)), "x4")
    assert not points(plot_comparison(make_comparison(costs=())), "x3")
    free = make_comparison()
    free = replace(free, costs=tuple(replace(cost, seconds=0.0) for cost in free.costs))
    assert plot_comparison(free).layout.xaxis3.type == "linear"


def test_undefined_statistics_are_said(make_comparison):
    found = make_comparison()
    rows = (replace(found.rows[0], spearman=Estimate(*[float("nan")] * 3)), *found.rows[1:])
    found = MethodComparison(rows, found.costs, 0.95, found.provenance)
    assert "1 of 8 undefined and not drawn" in subtitle(plot_comparison(found, "spearman"))
    assert "undefined" not in subtitle(plot_comparison(found, "pearson"))
    hover = points(plot_comparison(found))[0].hovertext[0]
    assert "<b>Pearson correlation" in hover
    assert "Spearman correlation undefined" in hover


def test_unknown_statistics_are_refused(make_comparison):
    with pytest.raises(RecordError, match="unknown statistic 'person'; did you mean 'pearson'"):
        plot_comparison(make_comparison(), "person")
