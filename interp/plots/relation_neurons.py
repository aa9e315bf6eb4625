"""What every relation loses when the neurons of one are zeroed."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.errors import RecordError
from interp.plots.heatmaps import add_heatmap, fit_cell, name_ticks, to_array, two_decimals
from interp.plots.over_counts import Curve, add_curves, shared_limits
from interp.plots.scales import BLUE, GREY, LINES, signed_scale
from interp.plots.sheet import Sheet
from interp.plots.tokens import escape_text
from interp.results.relation_neurons import RelationNeurons

_LONGEST = 22


def plot_relation_neurons(found: RelationNeurons, k: int | None = None) -> go.Figure:
    """Draw accuracy lost on every relation (columns) when the ``k`` neurons of each (rows) are zeroed.

    Beside it means over relations for every ``k``. Raises :class:`RecordError` for a number that is not there.
    """
    k = found.ks[-1] if k is None else k
    if k not in found.ks:
        raise RecordError(f"{', '.join(map(str, found.ks))} neurons were zeroed; got k={k}.")
    at = found.ks.index(k)
    sheet = Sheet()
    lost = to_array(found.base - found.accuracy[at])
    size = fit_cell(len(found.relations), 420, 20, 52)
    columns, rows = (
        name_ticks(found.relations, title, limit=_LONGEST) for title in ("judged", "neurons zeroed of")
    )
    panel = add_heatmap(
        sheet,
        f"accuracy lost, {k} neuron{'s' * (k > 1)} zeroed",
        lost,
        columns,
        rows,
        color_axis=sheet.add_color_axis(signed_scale([lost], "accuracy lost")),
        cell=(size, min(size, 36)),
        names=_describe(found, at),
        details=None,
        hover="%{hovertext}",
        top_down=True,
        cell_text=two_decimals(lost) if size >= 30 else None,
    )
    curves = [
        Curve("own relation", to_array(found.within), BLUE),
        Curve("other relations", to_array(found.across), LINES[1]),
        Curve("random neurons", to_array(found.random_within), GREY, "dash"),
    ]
    means = add_curves(
        sheet,
        "means over relations",
        found.ks,
        curves,
        shared_limits(curves, least=0.0),
        x_title="neurons zeroed",
        y_title="accuracy lost",
        named=True,
        size=(300, max(180, min(panel.height, 300))),
        unit="neuron",
    )
    means.legend, means.legend_lines = "legend", len(curves)
    sheet.add_note("neurons ranked on other prompts")
    sheet.add_note(f"random: {found.draws} draws of as many neurons of the same layers")
    return sheet.finish("Relation-specific neurons zeroed", found.provenance.summary())


def _describe(found: RelationNeurons, at: int) -> list[list[str]]:
    names = [escape_text(name) for name in found.relations]

    def text(a: int, b: int) -> str:
        random, low, high = found.random[at, a, b].tolist()
        return (
            f"<b>neurons of {names[a]}, judged on {names[b]}</b><br>accuracy {float(found.base[b]):.3f} before, "
            f"{float(found.accuracy[at, a, b]):.3f} after<br>random neurons {random:.3f} [{low:.3f}, {high:.3f}]"
        )

    return [[text(a, b) for b in range(len(names))] for a in range(len(names))]
