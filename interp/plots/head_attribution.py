"""Which heads the latents of an attention-output coder come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interp.errors import RecordError
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array
from interp.plots.scales import sequential_scale, signed_scale
from interp.plots.sheet import Sheet
from interp.results.head_attribution import HeadAttribution


def plot_head_attribution(
    attribution: HeadAttribution, latents: Sequence[int] | None = None, n: int = 40
) -> go.Figure:
    """Draw latents x heads: shares of the pre-activation where a latent fires, and of its decoder row.

    ``latents`` are those to draw; by default the ``n`` that fire most often, sorted by the head with the largest
    share. Raises :class:`RecordError` for a latent that the coder does not have.
    """
    chosen = _busiest(attribution, n) if latents is None else list(latents)
    beyond = [latent for latent in chosen if not 0 <= latent < len(attribution.n_fired)]
    if beyond or not chosen:
        raise RecordError(
            f"the coder has latents 0 to {len(attribution.n_fired) - 1}, some of which fire; got {beyond or 'none'}."
        )
    sheet = Sheet()
    rows = [f"latent {latent}" for latent in chosen]
    n_heads = attribution.contribution.shape[1]
    heads = name_ticks(range(n_heads), "head")
    share, decoder = (to_array(x[chosen]) for x in (attribution.share, attribution.decoder_share))
    cell = (fit_cell(n_heads, 320, 22, 40), fit_cell(len(chosen), 700, 14, 22))
    names = [[f"{row}, L{attribution.layer}H{head}" for head in range(n_heads)] for row in rows]
    for title, table, scale in (
        ("share of the pre-activation", share, signed_scale),
        ("share of the decoder row", decoder, sequential_scale),
    ):
        add_heatmap(
            sheet,
            title,
            table,
            heads,
            name_ticks(rows, ""),
            color_axis=sheet.add_color_axis(scale([table], "share")),
            cell=cell,
            names=names,
            details=np.stack([table], axis=-1),
            hover=f"<b>%{{hovertext}}</b><br>{title} %{{customdata[0]:.3f}}",
            top_down=True,
        )
    sheet.add_note(f"{len(chosen)} of {len(attribution.n_fired):,} latents; {attribution.n_tokens:,} tokens")
    return sheet.finish(f"Latents of {attribution.site} by head", attribution.provenance.summary())


def _busiest(attribution: HeadAttribution, n: int) -> list[int]:
    order = attribution.n_fired.argsort(descending=True, stable=True)[:n]
    order = order[attribution.n_fired[order] > 0]
    share = attribution.share[order]
    if not len(order):
        return []
    best, largest = share.argmax(1).tolist(), (-share.max(1).values).tolist()
    return [latent for *_, latent in sorted(zip(best, largest, order.tolist(), strict=True))]
