"""Patching scores as heatmaps, bars and a table of the top heads."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.patching_panels import add_axis_bars, add_maps, add_single_values, add_slices, add_top_bars
from interp.plots.patching_view import SiteView
from interp.plots.sheet import Sheet
from interp.results.phrases import capitalize, describe_patch, is_estimate, name_method
from interp.results.scores import PatchScores


def plot_patching(scores: PatchScores, site: str | None = None) -> go.Figure:
    """Draw patching scores, one facet or more for each site (or for ``site`` alone).

    Layer x position maps stand side by side on one scale, layer x head maps on another with a table
    of the top heads; per-position heads get a facet a layer, neurons a bar chart of the strongest and
    a map, one-axis results and single values bars. Colour is the effect: the recovered score for
    denoising (0 = corrupted, nothing done; 1 = clean), and the recovered score minus 1 for noising
    (0 = clean, nothing done; -1 = corrupted). Blue is positive. Raises ``KeyError`` for a site that
    is not in ``scores``.
    """
    chosen = list(scores) if site is None else [scores[site].site]
    views = [SiteView.of(scores, key) for key in chosen]
    sheet = Sheet()
    for kind, band in _bands(views).items():
        sheet.start_band()
        if kind == "singles":
            add_single_values(sheet, band)
        elif kind == "bars":
            for view in band:
                add_axis_bars(sheet, view)
        elif kind in ("positions", "heads", "others"):
            add_maps(sheet, band, with_table=kind == "heads")
        else:
            if band[0].has_units:
                add_top_bars(sheet, band[0])
            add_slices(sheet, band[0])
    doubtful = [name for name, report in scores.reports.items() if report.warning]
    if doubtful:
        sheet.add_note(f"possible illusion at {', '.join(doubtful)}: see reports")
    return sheet.finish(_title(scores, chosen), _subtitle(scores, views))


def _bands(views: list[SiteView]) -> dict[str, list[SiteView]]:
    """Views that share a row and a colour scale, in order of first appearance."""
    bands: dict[str, list[SiteView]] = {}
    for view in views:
        bands.setdefault(_band_of(view), []).append(view)
    return bands


def _band_of(view: SiteView) -> str:
    axes = view.axes
    if view.effects.size == 1:
        return "singles"
    if view.has_units or len(axes) > 2:
        return view.scores.site
    if len(axes) == 1:
        return "bars"
    if axes[1] == "pos":
        return "positions"
    return "heads" if axes[1] in ("head", "kv_head") else "others"


def _title(scores: PatchScores, chosen: list[str]) -> str:
    made = scores.provenance
    # of what is patched exactly the plain name says enough
    name = "activation patching" if made.method in (None, "exact") else name_method(made.method)
    return f"{capitalize(name)} of {', '.join(chosen)}: {describe_patch(made)}"


def _subtitle(scores: PatchScores, views: list[SiteView]) -> str:
    baselines = {(view.scores.corrupted, view.scores.clean) for view in views}
    zero, one = "0 = corrupted", "1 = clean"
    if len(baselines) == 1:
        corrupted, clean = baselines.pop()
        zero, one = f"{zero} ({corrupted:.3g})", f"{one} ({clean:.3g})"
    text = f"{scores.provenance.summary()} · recovered score: {zero}, {one}"
    if scores.direction == "noise":
        text += " · colour: recovered score − 1, what was lost"
    if is_estimate(scores.provenance):
        text += f" · every score is an estimate by {name_method(scores.provenance.method)}"
    if any(view.magnitudes is not None for view in views):
        text += (
            " · ranked by magnitude: the effect's size, or GradDrop's where effects cancel and it is larger"
        )
    equal = [view.scores.site for view in views if view.scores.clean == view.scores.corrupted]
    if equal:
        text += f" · {', '.join(equal)}: undefined (grey), for clean and corrupted are equal"
    return text
