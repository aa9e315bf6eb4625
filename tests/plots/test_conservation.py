"""The account of relevance, read as data."""

from __future__ import annotations

import numpy as np
import pytest

from interp.plots import plot_conservation


def subtitle(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_the_account_is_stacked_with_attention_taken_off(make_conservation):
    record = make_conservation(gap=1.5)
    figure = plot_conservation(record)
    parts = {trace.name: trace for trace in figure.data}
    assert figure.layout.barmode == "relative"
    for name, values in (
        ("relevance", record.relevance),
        ("biases", record.biases),
        ("− attention", -record.attention),
    ):
        assert parts[name].type == "bar"
        assert tuple(parts[name].x) == record.cuts
        np.testing.assert_allclose(parts[name].y, values)
    stacked = sum(np.asarray(parts[name].y) for name in ("relevance", "biases", "− attention"))
    np.testing.assert_allclose(parts["sum"].y, stacked)
    np.testing.assert_allclose(stacked, [4.5, 3.0, 3.0, 3.0, 3.0])
    assert list(parts["output"].y) == [3.0] * 5
    assert parts["output"].line.dash == "dash"
    assert parts["relevance"].hovertext[0].startswith("<b>resid_pre[0]</b><br>relevance ")


def test_gap_has_an_axis_of_its_own(make_conservation):
    figure = plot_conservation(make_conservation(gap=1.5))
    gap = figure.data[-1]
    np.testing.assert_allclose(gap.y, [1.5, 0, 0, 0, 0], atol=1e-12)
    assert (gap.xaxis, gap.yaxis) == ("x2", "y2")
    assert figure.layout.yaxis2.range == pytest.approx((-1.65, 1.65))


def test_rounding_does_not_look_like_a_gap(make_conservation):
    record = make_conservation(gap=1e-6)
    largest = max(float(x.abs().max()) for x in (record.relevance, record.biases, record.attention))
    limit = plot_conservation(record).layout.yaxis2.range[1]
    assert limit == pytest.approx(0.01 * max(largest, 3.0))


def test_title_and_subtitle(make_conservation):
    record = make_conservation(gap=1.5)
    figure = plot_conservation(record)
    assert figure.layout.title.text.replace("<br>", " ") == (
        "Relevance added up at every cut of the residual stream: clean prompts, rules relp"
    )
    assert "relevance:relp" in subtitle(figure)
    assert f"largest gap: {record.largest_gap:.2g} of the largest amount in the account" in subtitle(figure)
    assert "prompts" not in plot_conservation(make_conservation(run=None)).layout.title.text
