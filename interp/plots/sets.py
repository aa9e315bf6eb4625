"""Places patched together: interactions of pairs, the strongest sets, and a greedy search's way."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.plots.set_panels import add_members, add_pairs, add_path, add_top_pairs, add_top_sets
from interp.plots.sheet import Sheet
from interp.results.phrases import describe_patch
from interp.results.sets import SetScores


def plot_sets(scores: SetScores) -> go.Figure:
    """Draw sets of places patched together, beside what each place does alone.

    Pairs are a symmetric member x member map of interactions (the pair's effect less the sum of the
    two effects alone; blue is more, red is less than that sum) with the single effects as bars in
    the same order. Other sets are ranked bars, each with a diamond where the sum of its members'
    effects would be. A greedy search is a line of the recovered score over its steps, over all that
    was tried at each. An effect is the recovered score, for noising the recovered score minus 1.
    """
    sheet = Sheet()
    if scores.path is not None:
        add_path(sheet, scores, scores.path.tolist())
        add_members(sheet, scores)
        sheet.start_band()
        add_top_sets(sheet, scores)
    elif set(scores.sizes.tolist()) == {2}:
        add_pairs(sheet, scores)
        sheet.start_band()
        add_top_pairs(sheet, scores)
    else:
        add_top_sets(sheet, scores)
        add_members(sheet, scores)
    return sheet.finish(_title(scores), _subtitle(scores))


def _title(scores: SetScores) -> str:
    n, sizes = len(scores.sets), sorted(set(scores.sizes.tolist()))
    if scores.path is not None:
        what = f"Greedy search for {sizes[-1]} of {len(scores.members)} places"
    elif sizes == [2]:
        what = "1 pair patched together" if n == 1 else f"{n:,} pairs patched together"
    else:
        span = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        what = f"{n:,} {'set' if n == 1 else 'sets'} of {span} places patched together"
    return f"{what}: {describe_patch(scores.provenance)}"


def _subtitle(scores: SetScores) -> str:
    text = (
        f"{scores.provenance.summary()} · recovered score: 0 = corrupted ({scores.corrupted:.3g}), "
        f"1 = clean ({scores.clean:.3g})"
    )
    if scores.direction == "noise":
        text += " · effect: recovered score − 1, what was lost"
    if scores.clean == scores.corrupted:
        text += " · undefined, for clean and corrupted are equal"
    return text
