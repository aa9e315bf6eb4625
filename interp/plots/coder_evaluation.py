"""What a model loses with coders in place, and how often their latents fire."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from interp.plots.bars import add_bars, value_axis
from interp.plots.heatmaps import name_ticks
from interp.plots.scales import BLUE, GREY, RED
from interp.plots.sheet import Sheet
from interp.results.agreement import Estimate
from interp.results.coder_evaluation import CoderEvaluation, SiteFit, density_histogram

_WIDTH, _HEIGHT = 300, 230


def plot_coder_evaluation(evaluation: CoderEvaluation) -> go.Figure:
    """Draw cross-entropy and KL of the runs as bars, and for every site how many latents fire how often.

    Densities are in powers of ten; latents that never fire are counted in the panel's title.
    """
    sheet = Sheet()
    _add_losses(sheet, evaluation, "ce", "cross-entropy (nats a token)", evaluation.ce_recovered)
    _add_losses(sheet, evaluation, "kl", "KL from the model (nats a token)", evaluation.kl_recovered)
    sheet.start_band()
    for fit in evaluation.fits:
        _add_density(sheet, fit)
    sheet.add_note(
        f"{int(evaluation.n_predicted.sum()):,} predicted tokens of {len(evaluation.n_predicted):,} prompts"
    )
    where = ", ".join(fit.site for fit in evaluation.fits)
    return sheet.finish(f"Coders in place of {where}", evaluation.provenance.summary())


def _add_losses(
    sheet: Sheet, evaluation: CoderEvaluation, kind: str, title: str, recovered: Estimate
) -> None:
    runs = {"clean": BLUE, "substituted": RED, "ablated": GREY}
    names = [name for name in runs if hasattr(evaluation, f"{kind}_{name}")]
    values = [evaluation.mean(f"{kind}_{name}") for name in names]
    share = "undefined" if math.isnan(recovered.value) else f"{recovered.value:.1%}"
    hovers = [f"<b>{name}</b><br>{title}: {value:.4f}" for name, value in zip(names, values, strict=True)]
    add_bars(
        sheet,
        f"{share} recovered",
        name_ticks(names, ""),
        values,
        hovers,
        value_title=title,
        horizontal=False,
        colors=[runs[name] for name in names],
        pitch=110,
        length=_HEIGHT,
    )


def _add_density(sheet: Sheet, fit: SiteFit) -> None:
    edges, counts = density_histogram(fit.density)
    title = f"{fit.site}: L0 {fit.l0:.1f}, FVU {fit.fvu:.3f}, {fit.dead_frac:.1%} dead"
    panel = sheet.add_panel(title, _WIDTH, _HEIGHT, left=62, bottom=48)
    low, high = edges[:-1], edges[1:]
    sheet.figure.add_trace(
        go.Bar(
            x=((low + high) / 2).tolist(),
            y=counts.tolist(),
            width=(high - low).tolist(),
            marker=dict(color=BLUE, line=dict(color="white", width=0.5)),
            hovertext=[
                f"{n} latents fire on {10**a:.2g} to {10**b:.2g} of tokens"
                for n, a, b in zip(counts.tolist(), low.tolist(), high.tolist(), strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
            xaxis=panel.xaxis,
            yaxis=panel.yaxis,
        )
    )
    powers = list(range(round(float(edges[0])), 1))
    number = panel.xaxis[1:]
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "share of tokens", zeroline=False, tickvals=powers, ticktext=[f"{10.0**power:g}" for power in powers]
    )
    sheet.figure.layout[f"yaxis{number}"] = value_axis("latents")
