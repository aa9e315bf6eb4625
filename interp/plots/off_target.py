"""The off-target matrix as a heatmap."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.scales import BLACK, signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text
from interp.results.off_target import OffTarget


def plot_off_target(found: OffTarget) -> go.Figure:
    """Draw what each steering (row) does to every value of every attribute (column): blue is more, red less.

    Framed cells are on target. Hover gives intervals and the unsteered share.
    """
    sheet = Sheet()
    z = to_array(found.shifts[..., 0])
    axis = sheet.add_color_axis(signed_scale([z], "shift of share"))
    x = name_ticks(found.values, "effect on")
    y = name_ticks(found.steerings, "steering to")
    cell = (fit_cell(len(x), 620, 36, 56), fit_cell(len(y), 420, 22, 34))
    names = [
        [
            f"<b>{escape_text(steering)}</b> on {escape_text(value)}<br>shift {shift:+.3f} "
            f"[{low:+.3f}, {high:+.3f}]<br>unsteered {float(found.unsteered[j]):.3f}"
            for j, (value, (shift, low, high)) in enumerate(
                zip(found.values, found.shifts[i].tolist(), strict=True)
            )
        ]
        for i, steering in enumerate(found.steerings)
    ]
    panel = add_heatmap(
        sheet,
        "",
        z,
        x,
        y,
        color_axis=axis,
        cell=cell,
        names=names,
        details=None,
        hover="%{hovertext}",
        top_down=True,
        cell_text=two_decimals(z),
    )
    for i, steering in enumerate(found.steerings):
        if steering in found.values:
            j = found.values.index(steering)
            sheet.figure.add_shape(
                type="rect",
                xref=panel.xaxis,
                yref=panel.yaxis,
                x0=j - 0.5,
                x1=j + 0.5,
                y0=i - 0.5,
                y1=i + 0.5,
                line=dict(color=BLACK, width=2),
            )
    sheet.add_note(f"framed: on target; {found.confidence:.0%} bootstrap intervals on hover")
    if bool(found.shifts[..., 0].isnan().any()):
        sheet.add_note("grey: no strength reached this dose")
    return sheet.finish(
        f"What steering at {found.dose:g} nats does to every attribute", found.provenance.summary()
    )
