"""The panels of a patching figure: maps, facets, strongest neurons, bars."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.plots.bars import add_bars, add_ranked_bars
from interp.plots.heatmaps import Ticks, add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.patching_view import SiteView
from interp.plots.scales import signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tables import add_table
from interp.plots.tokens import escape_text
from interp.results.phrases import is_estimate
from interp.results.scores import RankedSite

MOST_FACETS = 24
TABLE_ROWS = 10
RANKED_BARS = 20
_WHISKERS = "whiskers: standard error over prompts"
_NO_ROWS = Ticks(("",), ("",), 1, "")


def add_maps(sheet: Sheet, views: Sequence[SiteView], *, with_table: bool) -> None:
    """Two-axis results side by side on one colour scale, and the strongest entries as a table."""
    color_axis = sheet.add_color_axis(signed_scale([v.effects for v in views], views[0].effect_title))
    rows = max(view.effects.shape[0] for view in views)
    columns = max(view.effects.shape[1] for view in views)
    if with_table:
        size = fit_cell(max(columns, rows), 320, 15, 40)
        cell = (size, size)
    else:
        # three abreast where tokens stay readable, else two
        cell = (fit_cell(columns, 290 if columns <= 19 else 480, 12, 40), fit_cell(rows, 320, 12, 36))
    for view in views:
        _add_slice(sheet, view, (), view.indices(), color_axis, cell)
    if with_table:
        ranked = sorted((row for view in views for row in view.top(TABLE_ROWS)), key=_strength)[:TABLE_ROWS]
        made = views[0].patched.provenance
        columns = [
            ("head", [row.name for row in ranked]),
            ("recovered", [f"{row.value:.3f}" for row in ranked]),
            (made.metric or "metric", [f"{row.raw:.3g}" for row in ranked]),
        ]
        if any(view.magnitudes is not None for view in views):
            columns.append(("magnitude", [f"{row.magnitude:.3f}" for row in ranked]))
        add_table(sheet, f"top {len(ranked)}" + (", estimated" if is_estimate(made) else ""), columns)


def add_slices(sheet: Sheet, view: SiteView) -> None:
    """One heatmap for each entry of all but the last two axes, the strongest where there are many."""
    color_axis = sheet.add_color_axis(signed_scale([view.effects], view.effect_title))
    indices = view.indices()
    effects, leading = view.effects, view.effects.shape[:-2]
    if view.effects.ndim == 1:
        indices, leading = indices[None], ()
    rows, columns = indices.shape[-3:-1]
    if view.axes[-1] == "src_pos":
        cell = (fit_cell(columns, 220, 9, 26),) * 2
    elif view.has_units:
        cell = (fit_cell(columns, 960, 4, 30), fit_cell(rows, 220, 12, 26))
    else:
        cell = (fit_cell(columns, 320, 12, 30), fit_cell(rows, 220, 12, 26))
    facets = list(itertools.product(*(range(n) for n in leading)))
    kept = _strongest(facets, effects) if leading else facets
    for facet in kept:
        _add_slice(sheet, view, facet, indices[facet], color_axis, cell)
    if len(kept) < len(facets):
        sheet.add_note(f"{view.scores.site}: the {len(kept)} strongest of {len(facets)} facets")


def _strongest(facets: list[tuple[int, ...]], effects: NDArray[Any]) -> list[tuple[int, ...]]:
    """All facets, or the strongest ones in their own order."""
    strength = np.nan_to_num(np.abs(effects)).max(axis=(-1, -2))
    kept = set(sorted(facets, key=lambda facet: -strength[facet])[:MOST_FACETS])
    return [facet for facet in facets if facet in kept]


def _add_slice(
    sheet: Sheet,
    view: SiteView,
    facet: tuple[int, ...],
    indices: NDArray[Any],
    color_axis: str,
    cell: tuple[float, float],
) -> None:
    """One heatmap of the entries at ``indices`` [y, x, axis]."""
    picked = tuple(np.moveaxis(indices, -1, 0))
    effects = view.effects[picked]
    row_axis = view.axes[-2] if len(view.axes) > 1 else None
    in_cells = effects.size <= 100 and min(cell) >= 30
    add_heatmap(
        sheet,
        view.facet_title(facet),
        effects,
        view.ticks(view.axes[-1]),
        _NO_ROWS if row_axis is None else view.ticks(row_axis),
        color_axis=color_axis,
        cell=cell,
        names=[[escape_text(view.name(index)) for index in row] for row in indices],
        details=view.details(picked),
        hover=view.hover,
        top_down=row_axis is not None and row_axis.endswith("pos"),
        cell_text=two_decimals(effects) if in_cells else None,
    )


def add_top_bars(sheet: Sheet, view: SiteView) -> None:
    """The strongest neurons or latents, strongest at the top."""
    ranked = view.top(RANKED_BARS)
    title = f"{view.scores.site}: the {len(ranked)} strongest of {view.effects.size}"
    names, values = [row.name for row in ranked], [row.effect for row in ranked]
    add_ranked_bars(sheet, title, names, values, [view.describe(row) for row in ranked], view.effect_title)
    sheet.start_band()


def add_axis_bars(sheet: Sheet, view: SiteView) -> None:
    """A one-axis result as bars: layers upward from 0 at the bottom, other axes to the right."""
    rows = sorted(view.top(view.effects.size), key=lambda row: row.index)
    horizontal = view.axes[0] == "layer"
    names = view.ticks(view.axes[0])
    errors = _standard_errors(view)
    add_bars(
        sheet,
        view.scores.site,
        names,
        [row.effect for row in rows],
        [view.describe(row) for row in rows],
        value_title=view.effect_title,
        horizontal=horizontal,
        errors=errors,
        pitch=fit_cell(len(names), 420, 15, 30),
        length=300 if horizontal else 220,
    )
    if errors:
        sheet.add_note(_WHISKERS)


def add_single_values(sheet: Sheet, views: Sequence[SiteView]) -> None:
    """Sites that were patched as a whole: one bar each."""
    rows = [view.top(1)[0] for view in views]
    errors = [_standard_errors(view) for view in views]
    add_bars(
        sheet,
        "",
        name_ticks([view.scores.site for view in views], ""),
        [row.effect for row in rows],
        [view.describe(row) for view, row in zip(views, rows, strict=True)],
        value_title=views[0].effect_title,
        horizontal=True,
        errors=[e[0] for e in errors if e] if all(errors) else None,
        pitch=30,
        length=420,
        top_down=True,
    )
    if all(errors):
        sheet.add_note(_WHISKERS)


def _standard_errors(view: SiteView) -> list[float] | None:
    """Standard error over prompts of each recovered score, in the order of the axis."""
    scores = view.scores
    if scores.per_prompt is None or scores.per_prompt.shape[-1] < 2 or scores.clean == scores.corrupted:
        return None
    metric = to_array(scores.per_prompt).reshape(-1, scores.per_prompt.shape[-1])
    errors = metric.std(axis=-1, ddof=1) / np.sqrt(metric.shape[-1]) / abs(scores.clean - scores.corrupted)
    return [float(error) for error in errors]


def _strength(row: RankedSite) -> float:
    return -row.magnitude if row.magnitude == row.magnitude else float("inf")
