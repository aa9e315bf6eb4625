"""What figures of searches and detectors show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_steering_search import (
    fake_comparison,
    fake_guard_report,
    fake_report,
    fake_search,
    steering_search_gallery,
)

from interp.plots import plot_detector, plot_guard, plot_search_comparison, plot_steering_search
from interp.results.detector import GUARD_CELLS


def test_a_map_a_dose_with_every_score():
    found = fake_search()
    maps = [t for t in plot_steering_search(found).data if t.type == "heatmap"]
    assert len(maps) == 2
    for number, trace in enumerate(maps):
        np.testing.assert_allclose(np.asarray(trace.z, dtype=float), found.scores[..., number], rtol=1e-6)
        assert f"strength {float(found.strengths[1, 0, number]):.3g}" in trace.hovertext[1][0]


def test_what_is_ruled_out_is_said():
    figure = steering_search_gallery()["steering search ruled out"].plot()
    texts = [text for row in figure.data[0].text for text in row]
    assert sum(text.startswith("(") for text in texts) == 5
    assert "5 of 8 candidates ruled out" in figure.layout.title.subtitle.text
    assert "ruled out" in figure.data[0].hovertext[0][1]
    # it knows no doses
    assert [note.text for note in figure.layout.annotations] == ["every dose"]


def test_regrets_are_bars_with_intervals():
    found = fake_comparison(none_passes=True)
    figure = plot_search_comparison(found)
    maps = [t for t in figure.data if t.type == "heatmap"]
    np.testing.assert_allclose(np.asarray(maps[0].z, dtype=float), found.judged.double().mean(-1), rtol=1e-5)
    assert len(maps) == 1 + len(found.methods)
    (bars,) = (t for t in figure.data if t.type == "bar")
    assert list(bars.x)[:3] == pytest.approx([one.value for one in found.regret[:3]])
    assert bars.x[4] == found.any_regret.value
    assert bars.text[3] == "none passed" and "none passed" in bars.hovertext[3]
    assert bars.error_x.array[0] == pytest.approx(found.regret[0].high - found.regret[0].value)


def test_the_roc_ends_at_its_corners_and_shows_the_threshold():
    report = fake_report()
    figure = plot_detector(report)
    curve = figure.data[1]
    x, y = report.ranking.roc
    assert list(curve.x) == x.tolist() and list(curve.y) == y.tolist()
    assert (figure.data[2].x[0], figure.data[2].y[0]) == (report.false_rate.value, report.true_rate.value)
    assert figure.layout.shapes[0].x0 == report.threshold
    shares = [sum(trace.y) for trace in figure.data if trace.type == "bar"]
    assert shares == pytest.approx([1, 1])


def test_without_a_threshold_there_is_no_line():
    figure = plot_detector(fake_report(threshold=None))
    assert not figure.layout.shapes and len([t for t in figure.data if t.type == "scatter"]) == 2


def test_every_prompt_of_a_guard_is_a_point_of_its_cell():
    report = fake_guard_report()
    figure = plot_guard(report)
    points = [t for t in figure.data if t.type == "scatter"]
    assert [t.name for t in points] == [f"{cell} (20)" for cell in GUARD_CELLS]
    for cell, trace in enumerate(points):
        kept = report.truth == cell
        torch.testing.assert_close(torch.tensor(trace.x), report.content[kept].float())
    (table,) = (t for t in figure.data if t.type == "heatmap")
    counts = [[int(text) for text in row] for row in table.text]
    assert counts == report.table.tolist()
    assert figure.layout.shapes[0].x0 == report.thresholds[0]
