"""The illusion report of a subspace patch."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.bars import add_bars
from interp.plots.heatmaps import name_ticks
from interp.plots.scales import GREY
from interp.plots.sheet import Panel, Sheet
from interp.plots.tokens import escape_text
from interp.results.subspace import SubspaceReport


def plot_subspace_report(report: SubspaceReport) -> go.Figure:
    """Draw the effects of a subspace and its parts, on held-out prompts too, and their separability.

    Effects are recovered scores minus that of having done nothing, blue above 0. Separability is the
    area under the ROC curve of each projection on clean data, from chance (0.5) to 1.
    """
    sheet = Sheet()
    panels = [("effect of patching", report.effect.tolist(), report.raw.tolist())]
    held_out = report.held_out_effect
    if held_out is not None and report.held_out_raw is not None:
        panels.append(("effect on held-out prompts", held_out.tolist(), report.held_out_raw.tolist()))
    metric = escape_text(report.provenance.metric or "metric")
    for title, effects, raw in panels:
        hovers = [
            f"<b>{part}</b><br>effect {effect:.3f}<br>{metric} {value:.4g}"
            for part, effect, value in zip(report.parts, effects, raw, strict=True)
        ]
        _add_parts(sheet, report, title, effects, hovers, "recovered score gained or lost")
    separability = report.separability.tolist()
    hovers = [f"<b>{part}</b><br>AUC {auc:.3f}" for part, auc in zip(report.parts, separability, strict=True)]
    panel = _add_parts(
        sheet, report, "separability on clean data", separability, hovers, "AUC, 0.5 is chance"
    )
    sheet.figure.layout[f"xaxis{panel.xaxis[1:]}"].range = [0, 1.02]
    sheet.figure.add_shape(
        type="line",
        xref=panel.xaxis,
        yref=f"{panel.yaxis} domain",
        x0=0.5,
        x1=0.5,
        y0=0,
        y1=1,
        line=dict(color=GREY, dash="dash", width=1),
    )
    sheet.add_note(
        f"{report.row_space_share:.0%} of the subspace lies in the row space of {report.readout}; "
        f"the patched readout is {report.readout_z:.1f} standard deviations out"
    )
    if report.warning:
        sheet.add_note(report.warning)
    size = "1 dimension" if report.dimensions == 1 else f"{report.dimensions} dimensions"
    doubt = ": possible illusion" if report.warning else ""
    return sheet.finish(
        f"Subspace patch of {report.site} ({size}) and its parts{doubt}", report.provenance.summary()
    )


def _add_parts(
    sheet: Sheet, report: SubspaceReport, title: str, values: list[float], hovers: list[str], value_title: str
) -> Panel:
    return add_bars(
        sheet,
        title,
        name_ticks(report.parts, ""),
        values,
        hovers,
        value_title=value_title,
        horizontal=True,
        pitch=34,
        length=230,
        top_down=True,
    )
