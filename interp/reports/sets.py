"""The report of sets of places patched together."""

from __future__ import annotations

from pathlib import Path

from interp.reports.page import Section, Table, write_report
from interp.reports.sections import provenance_section, summary_section
from interp.results import SetScores
from interp.results.phrases import capitalize, name_patch
from interp.tasks import PromptPairs

_WHAT_SCORES_MEAN = {
    "denoise": "A recovered score of 1 means that the set alone brings the metric back to the clean run's; 0 means "
    "that it does nothing.",
    "noise": "A recovered score of 0 means that breaking the set brings the metric down to the corrupted run's; 1 "
    "means that it does nothing.",
}
_INTERACTION = (
    "Effect is how far the recovered score is from having done nothing, sum of members what the effects of the "
    "set's members alone add up to, and interaction the difference: 0 where they act independently of each other."
)


def sets_report(
    scores: SetScores,
    path: str | Path,
    *,
    prompts: PromptPairs | None = None,
    title: str | None = None,
    k: int = 15,
) -> Path:
    """Write scores of sets as one self-contained HTML file, and return its path.

    It holds the baselines, a few of ``prompts`` where they are given, the steps of a greedy search,
    the ``k`` sets of the largest effect and of the largest interaction, the figure, and the
    provenance. Raises :class:`~interp.errors.ExportError` as :func:`write_report` does.
    """
    made = scores.provenance
    sections = [
        summary_section(_done(scores), made.metric, scores.clean, scores.corrupted, prompts),
        *_steps(scores),
        Section("Sets of the largest effect", (_INTERACTION,), (_ranking(scores, k, "effect"),)),
        Section("Sets that interact most", tables=(_ranking(scores, k, "interaction"),)),
        Section("Together and alone", figures=(scores.plot(),)),
        provenance_section(made),
    ]
    return write_report(
        path,
        title or f"Sets patched together: {made.task or 'custom task'} on {made.model}",
        sections,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _done(scores: SetScores) -> str:
    what, base = name_patch(scores.provenance)
    done = f"{capitalize(what)} were put into the {base} run, at all places of a set together."
    return f"{done} {_WHAT_SCORES_MEAN[scores.direction]}"


def _ranking(scores: SetScores, k: int, by: str) -> Table:
    rows = tuple(
        (row.name, row.value, row.effect, row.effect - row.interaction, row.interaction, row.raw)
        for row in scores.top(k, by=by)
    )
    metric = f"{scores.provenance.metric or 'metric'} after patching"
    return Table(("set", "recovered", "effect", "sum of members", "interaction", metric), rows)


def _steps(scores: SetScores) -> list[Section]:
    if scores.path is None:
        return []
    values = scores.values.tolist()
    rows = tuple(
        (step, scores.members_at(index)[-1], values[index])
        for step, index in enumerate(scores.path.tolist(), start=1)
    )
    text = "Each step added the place that made the set's effect largest; a greedy chain need not be the best set."
    return [Section("Greedy search", (text,), (Table(("step", "added", "recovered"), rows),))]
