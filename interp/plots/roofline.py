"""Kernels under the roofs of their device: what they reach of the rates of memory and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

import plotly.graph_objects as go

from interp.plots.bars import add_bars, value_axis
from interp.plots.heatmaps import name_ticks
from interp.plots.scales import GREY, LINES
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.kernel_timings import KERNEL, KernelTiming, KernelTimings

_WIDTH, _HEIGHT = 340, 310
_BAR = 18
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon")
_HOLLOW = {"eager": "-open", "compiled": "-open-dot"}
_ON_BARS = {"-open": "", "-open-dot": "-dot"}
"""The same marks, filled with white so that they are seen on any colour."""
_NAMES = {"eager": "plain PyTorch", "compiled": "torch.compile"}
_ROOF = "roof"
_MARGIN = 1.6
"""Of a logarithmic axis beyond its points, as a factor."""


def plot_roofline(timings: KernelTimings) -> go.Figure:
    """Draw every case by its arithmetic intensity (FLOP a byte) and the FLOP a second that it reaches.

    A panel a dtype, because the roofs are a dtype's: FLOP a second cannot pass intensity times the rate of a large
    copy, nor the rate of a large product, both measured in the same run. Filled marks are kernels; hollow ones
    straight below or above them plain PyTorch, and with a dot ``torch.compile`` of it; what peers take is in the hover.
    Under them, a bar a case: the share of the roof that its kernel reaches. Cases without arithmetic have a bar only.
    """
    sheet = Sheet()
    styles = {op: (LINES[i % len(LINES)], _SYMBOLS[i % len(_SYMBOLS)]) for i, op in enumerate(timings.ops)}
    drawn = [timing for timing in timings.timings if timing.n_flops > 0]
    for dtype in dict.fromkeys(timing.dtype for timing in drawn):
        _add_roofs(sheet, timings, [timing for timing in drawn if timing.dtype == dtype], styles)
    if drawn:
        _add_legend(sheet, timings, styles)
    sheet.start_band()
    for op in timings.ops:
        _add_shares(sheet, timings, op, styles[op])
    sheet.add_note(timings.device)
    sheet.add_note(f"roof: a large copy ({_with_prefix(timings.copy_rate, 'B/s')}), a large product")
    silent = len({timing.place for timing in timings.timings} - {timing.place for timing in drawn})
    if silent:
        sheet.add_note(f"without arithmetic, as bars only: {silent} of {len(timings.cases)} cases")
    return sheet.finish("Kernels under the roofs of their device", timings.provenance.summary())


Style = tuple[str, str]
"""Colour and symbol of an operation."""


def _add_roofs(
    sheet: Sheet, timings: KernelTimings, found: Sequence[KernelTiming], styles: dict[str, Style]
) -> None:
    dtype = found[0].dtype
    product, copy = timings.matmul_rate(dtype), timings.copy_rate
    title = f"{dtype}: product {_with_prefix(product, 'FLOP/s')}"
    panel = sheet.add_panel(title, _WIDTH, _HEIGHT, left=70, bottom=48)
    ridge = product / copy
    low = min(ridge / 4, *(timing.intensity for timing in found)) / _MARGIN
    high = max(ridge * 4, *(timing.intensity for timing in found)) * _MARGIN
    sheet.figure.add_trace(
        go.Scatter(
            x=[low, ridge, high],
            y=[low * copy, product, product],
            mode="lines",
            line=dict(color=GREY, width=2),
            hoverinfo="skip",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    for op in timings.ops:
        for implementation in (*_HOLLOW, KERNEL):
            chosen = [one for one in found if (one.op, one.implementation) == (op, implementation)]
            if chosen:
                _add_points(sheet, panel, chosen, timings, styles[op])
    bottom = min(low * copy, *(timing.flops_rate for timing in found)) / _MARGIN
    top = max(product, *(timing.flops_rate for timing in found)) * _MARGIN
    suffix = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{suffix}"] = _log_axis("FLOP a byte", low, high)
    sheet.figure.layout[f"yaxis{suffix}"] = _log_axis("FLOP a second", bottom, top)


def _add_points(
    sheet: Sheet, panel: Panel, found: Sequence[KernelTiming], timings: KernelTimings, style: Style
) -> None:
    color, symbol = style
    is_kernel = found[0].implementation == KERNEL
    sheet.figure.add_trace(
        go.Scatter(
            x=[timing.intensity for timing in found],
            y=[timing.flops_rate for timing in found],
            mode="markers",
            marker=dict(
                color=color,
                symbol=symbol + _HOLLOW.get(found[0].implementation, ""),
                size=10 if is_kernel else 9,
                opacity=0.85 if is_kernel else 0.6,
                line=dict(width=1, color="white" if is_kernel else color),
            ),
            hovertext=[_describe(timing, timings) for timing in found],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )


def _add_legend(sheet: Sheet, timings: KernelTimings, styles: dict[str, Style]) -> None:
    """Operations by colour and symbol, implementations by filling."""
    there = {timing.implementation for timing in timings.timings}
    marks = [(op, *style) for op, style in styles.items()]
    marks += [(_NAMES[name], GREY, f"circle{end}") for name, end in _HOLLOW.items() if name in there]
    for name, color, symbol in marks:
        marker = dict(color=color, symbol=symbol, size=9)
        sheet.figure.add_trace(_legend_entry(name, mode="markers", marker=marker))
    sheet.figure.add_trace(_legend_entry(_ROOF, mode="lines", line=dict(color=GREY, width=2)))
    sheet.add_legend([*(name for name, *_ in marks), _ROOF])


def _legend_entry(name: str, **look: object) -> go.Scatter:
    return go.Scatter(
        x=[None],
        y=[None],
        name=escape_text(name),
        legend="legend",
        showlegend=True,
        hoverinfo="skip",
        xaxis="x",
        yaxis="y",
        **look,
    )


def _add_shares(sheet: Sheet, timings: KernelTimings, op: str, style: Style) -> None:
    cases = {place: found for place, found in timings.cases.items() if place[0] == op}
    kernels = [next(one for one in found if one.implementation == KERNEL) for found in cases.values()]
    names = name_ticks([" ".join(place[1:]) for place in cases], "", limit=44)
    panel = add_bars(
        sheet,
        op,
        names,
        [kernel.roof_share for kernel in kernels],
        [_describe(kernel, timings) for kernel in kernels],
        value_title="share of the roof",
        horizontal=True,
        colors=[style[0]] * len(kernels),
        pitch=_BAR,
        length=230,
        top_down=True,
    )
    for implementation, ending in _HOLLOW.items():
        chosen = [
            (key, one)
            for key, found in zip(names.keys, cases.values(), strict=True)
            for one in found
            if one.implementation == implementation
        ]
        if chosen:
            sheet.figure.add_trace(
                go.Scatter(
                    x=[one.roof_share for _, one in chosen],
                    y=[key for key, _ in chosen],
                    mode="markers",
                    marker=dict(
                        color="white",
                        symbol=f"circle{_ON_BARS[ending]}",
                        size=8,
                        line=dict(width=1, color="black"),
                    ),
                    hovertext=[_describe(one, timings) for _, one in chosen],
                    hovertemplate="%{hovertext}<extra></extra>",
                    showlegend=False,
                    xaxis=panel.xaxis,
                    yaxis=panel.yaxis,
                )
            )
    most = max(1.0, *(one.roof_share for found in cases.values() for one in found))
    axis = value_axis("share of the roof", range=[0, most * 1.04], tickformat=".0%")
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"] = axis


def _describe(timing: KernelTiming, timings: KernelTimings) -> str:
    """Name, sizes, and what was reached, for a hover."""
    what = _NAMES.get(timing.implementation, timing.implementation)
    bound = "memory" if timing.is_memory_bound else "arithmetic"
    lines = [
        f"<b>{escape_text(timing.op)}, {escape_text(timing.case)}</b>",
        escape_text(f"{timing.shape} {timing.dtype}"),
        f"{escape_text(what)}: {timing.p50 * 1e6:.3g} us ({timing.p20 * 1e6:.3g} to {timing.p80 * 1e6:.3g})",
        f"{timing.roof_share:.0%} of the roof, bound by {bound}",
        f"{_with_prefix(timing.bytes_rate, 'B/s')}, {_with_prefix(timing.flops_rate, 'FLOP/s')}",
    ]
    for other in timings.cases[timing.place]:
        if other.implementation != timing.implementation:
            name = escape_text(_NAMES.get(other.implementation, other.implementation))
            lines.append(f"{name}: {other.p50 / timing.p50:.2f} times as long")
    return "<br>".join(lines)


def _log_axis(title: str, low: float, high: float) -> dict[str, object]:
    decades = range(floor(log10(low)), floor(log10(high)) + 1)
    powers = [10.0**i for i in decades if low <= 10.0**i]
    between = [n * 10.0**i for i in decades for n in range(2, 10) if low <= n * 10.0**i <= high]
    return value_axis(
        title,
        type="log",
        range=[log10(low), log10(high)],
        zeroline=False,
        tickvals=powers,
        ticktext=[_with_prefix(power, "") for power in powers],
        minor=dict(ticks="inside", ticklen=3, tickvals=between),
    )


def _with_prefix(rate: float, unit: str) -> str:
    """A rate in words.

    >>> _with_prefix(2.4e12, "B/s"), _with_prefix(65.0, "FLOP/s")
    ('2.4 TB/s', '65 FLOP/s')
    """
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {prefix}{unit}"
    return f"{rate:.3g} {unit}"
