"""Probes after latents were taken out: what each loses, and what biased ones regain."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.errors import RecordError
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.over_counts import Curve, add_curves, shared_limits
from interp.plots.scales import BLUE, GREY, LINES, signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text, shorten
from interp.results.perturbation import ProbePerturbation, ShortcutRemoval

_LONGEST = 22
_AXIS = "latents taken out"


def plot_probe_perturbation(found: ProbePerturbation, k: int | None = None) -> go.Figure:
    """Draw what every probe loses when each target's latents are taken out, and means over their number.

    Rows are the targets whose latents are gone, columns the probes; ``k`` chooses how many, by default the
    most. Raises :class:`RecordError` for a number that is not there.
    """
    k = found.ks[-1] if k is None else k
    if k not in found.ks:
        raise RecordError(f"{', '.join(map(str, found.ks))} latents were taken out; got k={k}.")
    sheet = Sheet()
    table = to_array(found.drops[found.ks.index(k)])
    size = fit_cell(len(found.targets), 420, 20, 52)
    ticks = [name_ticks(found.targets, title, limit=_LONGEST) for title in ("probe", "latents taken out of")]
    panel = add_heatmap(
        sheet,
        f"balanced accuracy lost, {k} latent{'s' * (k > 1)} out",
        table,
        ticks[0],
        ticks[1],
        color_axis=sheet.add_color_axis(signed_scale([table], "accuracy lost")),
        cell=(size, min(size, 34)),
        names=_describe(found, found.ks.index(k)),
        details=None,
        hover="%{hovertext}",
        top_down=True,
        cell_text=two_decimals(table) if size >= 30 else None,
    )
    curves = _means(found)
    means = add_curves(
        sheet,
        "means over targets",
        found.ks,
        curves,
        shared_limits(curves, least=0.0),
        x_title=_AXIS,
        y_title="accuracy lost",
        named=True,
        size=(300, max(180, min(panel.height, 300))),
    )
    means.legend, means.legend_lines = "legend", len(curves)
    value, low, high = found.scores[found.ks.index(k)].tolist()
    sheet.add_note(f"TPP (own less others): {value:.3f} [{low:.3f}, {high:.3f}]")
    sheet.add_note("others: probes of other attributes")
    return sheet.finish("Targeted probe perturbation", found.provenance.summary())


def _describe(found: ProbePerturbation, at: int) -> list[list[str]]:
    names = [escape_text(target) for target in found.targets]
    return [
        [
            f"<b>latents of {ablated}, probe for {probe}</b><br>{float(found.base[p]):.3f} before, "
            f"{float(found.after[at, a, p]):.3f} after"
            + ("<br>two values of one attribute" if bool(found.related[a, p]) and a != p else "")
            for p, probe in enumerate(names)
        ]
        for a, ablated in enumerate(names)
    ]


def _means(found: ProbePerturbation) -> list[Curve]:
    score = to_array(found.scores)
    return [
        Curve("own probe", to_array(found.own_drops.nanmean(1)), BLUE),
        Curve("others", to_array(found.other_drops.nanmean(1)), LINES[1]),
        Curve("random latents", to_array(found.random_drops.nanmean(1)), GREY, "dash"),
        Curve("own less others", score[:, 0], LINES[2], "dot", score[:, 1], score[:, 2]),
    ]


def plot_shortcut_removal(found: ShortcutRemoval) -> go.Figure:
    """Draw accuracy of biased probes over the shortcut's latents taken out, a panel a pair.

    Lines across: the biased probe as it was (dotted) and a probe fitted without the bias (solid orange).
    """
    sheet = Sheet()
    panels = []
    for i, (target, shortcut) in enumerate(found.pairs):
        after = to_array(found.after[i])
        curves = [
            Curve("biased probe", np.array([float(found.biased[i])]), GREY, "dot", level=True),
            Curve("unbiased probe", np.array([float(found.oracle[i])]), LINES[1], level=True),
            Curve("random latents out", to_array(found.random[i]), GREY, "dash"),
            Curve("shortcut's latents out", after[:, 0], BLUE, "solid", after[:, 1], after[:, 2]),
        ]
        panels.append((f"{target}, not {shortcut}", curves))
    limits = shared_limits([curve for _, curves in panels for curve in curves], least=0.5)
    for number, (title, curves) in enumerate(panels):
        add_curves(
            sheet,
            shorten(title, 34),
            found.ks,
            curves,
            limits,
            x_title=_AXIS,
            y_title="balanced accuracy",
            named=number == 0,
            size=(244, 140),
        )
    sheet.add_legend([curve.name for curve in panels[0][1]])
    sheet.add_note(f"bands: {found.confidence:.0%} bootstrap intervals over prompts held out")
    sheet.add_note("fitted where target and shortcut agree, judged where they are independent")
    return sheet.finish("Removal of shortcuts from biased probes", found.provenance.summary())
