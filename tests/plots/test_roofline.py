"""Kernels under their roofs, read as data."""

from __future__ import annotations

import numpy as np
import pytest
from fake_kernels import COPY, PRODUCTS, make_case, make_many, make_timing, make_timings

from interp.plots import plot_roofline


def points(figure, axis):
    """Marks in a panel, by symbol."""
    return [
        t for t in figure.data if t.type == "scatter" and t.xaxis == axis and t.mode == "markers" and t.x[0]
    ]


def test_points_stand_at_intensity_and_rate_under_the_measured_roof():
    timings = make_timings(*make_case(0.5, {"eager": 4.0, "compiled": 2.0}))
    figure = plot_roofline(timings)
    roof = next(t for t in figure.data if t.mode == "lines" and t.x[0])
    ridge = PRODUCTS["bfloat16"] / COPY
    assert roof.x[1] == pytest.approx(ridge) and roof.y[1] == roof.y[2] == PRODUCTS["bfloat16"]
    assert roof.y[0] / roof.x[0] == pytest.approx(COPY)
    found = {t.marker.symbol: t for t in points(figure, "x")}
    assert list(found) == ["circle-open", "circle-open-dot", "circle"]
    for symbol, share in (("circle", 0.5), ("circle-open", 0.125), ("circle-open-dot", 0.25)):
        (x,), (y,) = found[symbol].x, found[symbol].y
        assert x == pytest.approx(20) and y == pytest.approx(share * 20 * COPY)
        low, high = (10**end for end in figure.layout.yaxis.range)
        assert low < y < high and 10 ** figure.layout.xaxis.range[0] < x
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_hovers_tell_what_was_reached():
    figure = plot_roofline(make_timings(*make_case(0.5, {"eager": 4.0, "a <peer>": 1.5})))
    (kernel,) = points(figure, "x")[-1].hovertext
    assert kernel == (
        "<b>readout, forward</b><br>rows=512 d=768 bfloat16<br>kernel: 20 us (19.4 to 22)"
        "<br>50% of the roof, bound by memory<br>1.4 TB/s, 28 TFLOP/s"
        "<br>plain PyTorch: 4.00 times as long<br>a &lt;peer&gt;: 1.50 times as long"
    )
    (eager,) = points(figure, "x")[0].hovertext
    assert "plain PyTorch: 80 us" in eager and "kernel: 0.25 times as long" in eager


def test_a_panel_a_dtype_and_bars_an_operation():
    timings = make_many()
    figure = plot_roofline(timings)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["bfloat16: product 720 TFLOP/s", "float32: product 50 TFLOP/s", *timings.ops]
    bars = [t for t in figure.data if t.type == "bar"]
    assert [len(t.x) for t in bars] == [6] * 7
    shares = np.concatenate([t.x for t in bars])
    assert shares == pytest.approx([kernel.roof_share for kernel in timings.kernels])
    # rivals on the bar of their own case
    rival = next(t for t in points(figure, bars[2].xaxis) if t.marker.symbol == "circle")
    assert list(rival.y) == list(bars[2].y) and np.array(bars[2].x) / rival.x == pytest.approx([4.1] * 6)
    for panel in ("x", "x2"):
        drawn = sum(len(t.x) for t in points(figure, panel) if not t.marker.symbol.endswith(("open", "dot")))
        assert drawn == {"x": 26, "x2": 13}[panel]
    assert "without arithmetic, as bars only: 3 of 42 cases" in figure.layout.title.subtitle.text


def test_legend_and_ranges():
    names = [t.name for t in plot_roofline(make_many()).data if t.showlegend]
    assert names == [*make_many().ops, "plain PyTorch", "torch.compile", "roof"]
    names = [t.name for t in plot_roofline(make_timings()).data if t.showlegend]
    assert names == ["readout", "roof"]
    over = plot_roofline(make_timings(make_timing(p50=8e-6, p20=8e-6)))
    assert over.layout.xaxis2.range[1] == pytest.approx(1.25 * 1.04)
    moves = plot_roofline(make_timings(make_timing(n_flops=0.0)))
    assert [t.type for t in moves.data] == ["bar"]
