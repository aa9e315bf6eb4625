"""The report of a patching run: what matters, the pictures, and how the numbers were made."""

from __future__ import annotations

from pathlib import Path

from interp.reports.page import Section, Table, write_report
from interp.reports.sections import provenance_section, summary_section
from interp.results import AblationCheck, PatchScores, Provenance
from interp.tasks import PromptPairs

_DIRECTIONS = {
    "denoise": "Clean activations were put into the corrupted run, one site at a time. A recovered score of 1 "
    "means that the site alone brings the metric back to the clean run's; 0 means that it does nothing.",
    "noise": "Corrupted activations were put into the clean run, one site at a time. A recovered score of 0 "
    "means that breaking the site alone brings the metric down to the corrupted run's; 1 means that it does "
    "nothing.",
}


def patching_report(
    scores: PatchScores,
    path: str | Path,
    *,
    prompts: PromptPairs | None = None,
    ablation: AblationCheck | None = None,
    ablation_note: str = "",
    title: str | None = None,
    k: int = 15,
) -> Path:
    """Write patching scores as one self-contained HTML file, and return its path.

    It holds the baselines, a few of ``prompts`` where they are given, the ``k`` sites of the largest
    effect, maps of every site, subspace reports, the ablation check where one is given (with
    ``ablation_note``, for prompts other than the patched ones), and the provenance.

    Raises :class:`~interp.errors.ExportError` as :func:`write_report` does.
    """
    made = scores.provenance
    sections = [_summary(scores, prompts), _top_sites(scores, k)]
    sections.append(Section("Maps", figures=(scores.plot(),)))
    if ablation is not None:
        sections.append(_ablation(ablation, ablation_note))
    sections += [_subspace(key, scores) for key in scores.reports]
    sections.append(_provenance(made, ablation))
    return write_report(
        path,
        title or f"Activation patching: {made.task or 'custom task'} on {made.model}",
        sections,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _summary(scores: PatchScores, prompts: PromptPairs | None) -> Section:
    first = next(iter(scores.sites.values()))
    text, metric = _DIRECTIONS[scores.direction], scores.provenance.metric
    return summary_section(text, metric, first.clean, first.corrupted, prompts)


def _top_sites(scores: PatchScores, k: int) -> Section:
    rows = tuple((row.name, row.site, row.value, row.effect, row.raw) for row in scores.top(k))
    metric = scores.provenance.metric or "metric"
    table = Table(("place", "site", "recovered", "effect", f"{metric} after patching"), rows)
    text = "Effect is how far the recovered score is from having done nothing; the largest come first."
    return Section("Top sites", (text,), (table,))


def _ablation(check: AblationCheck, note: str) -> Section:
    random = check.random_recovered
    rows = (
        ("clean run", check.clean, 1.0),
        (f"{', '.join(check.names)} ablated", check.ablated, check.recovered),
        (f"{len(random)} random sets, mean", float(check.random.mean()), float(random.mean())),
        ("corrupted run", check.corrupted, 0.0),
    )
    text = (
        f"{', '.join(check.names)} were ablated together in the clean run "
        f"({check.provenance.ablation}), beside as many others drawn at random. "
        f"{check.random_as_strong:.0%} of the random sets move the metric as far as the chosen set."
    )
    table = Table(("run", check.provenance.metric or "metric", "recovered"), rows)
    return Section("Ablated together", (text, note) if note else (text,), (table,), (check.plot(),))


def _subspace(key: str, scores: PatchScores) -> Section:
    report = scores.reports[key]
    text = (report.warning,) if report.warning else ("No sign of a subspace illusion.",)
    return Section(f"Subspace {key}", text, (), (report.plot(),))


def _provenance(made: Provenance, ablation: AblationCheck | None) -> Section:
    more = () if ablation is None else ablation.provenance.notes
    return provenance_section(
        made, [("note on the ablation", note) for note in more if note not in made.notes]
    )
