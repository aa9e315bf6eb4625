"""The report of a patching run: what matters, the pictures, and how the numbers were made."""

from __future__ import annotations

from pathlib import Path

from interp.errors import ExportError
from interp.reports.page import Cell, Section, Table, write_report
from interp.reports.sections import provenance_section, summary_section
from interp.results import AblationCheck, MethodAgreement, PatchScores, Provenance
from interp.results.phrases import capitalize, is_estimate, name_method, name_patch
from interp.tasks import PromptPairs

_WHAT_SCORES_MEAN = {
    "denoise": "A recovered score of 1 means that the site alone brings the metric back to the clean run's; 0 means "
    "that it does nothing.",
    "noise": "A recovered score of 0 means that breaking the site alone brings the metric down to the corrupted "
    "run's; 1 means that it does nothing.",
}
_UNCHECKED = (
    "These scores are estimates by {method}, and were not checked against exact patching. "
    "interp.verify_scores(model, task, scores), or scores.verify() where they were made, patches the sites that rank "
    "first and a random sample of the others, and says how well both agree."
)
_DISAGREEMENTS = 10


def patching_report(
    scores: PatchScores,
    path: str | Path,
    *,
    prompts: PromptPairs | None = None,
    ablation: AblationCheck | None = None,
    ablation_note: str = "",
    agreement: MethodAgreement | None = None,
    title: str | None = None,
    k: int = 15,
) -> Path:
    """Write patching scores as one self-contained HTML file, and return its path.

    It holds the baselines, a few of ``prompts`` where they are given, the ``k`` sites of the largest
    effect, maps of every site, subspace reports, the ablation check where one is given (with
    ``ablation_note``, for prompts other than the patched ones), and the provenance. Of an approximate
    method it shows ``agreement`` with exact patching, or says that nothing was checked.

    Raises :class:`~interp.errors.ExportError` for an agreement of another method, and as
    :func:`write_report` does.
    """
    made = scores.provenance
    if agreement is not None and agreement.provenance.method != made.method:
        raise ExportError(
            f"the agreement is of {agreement.provenance.method}, the scores are by {made.method}; give the one that "
            "these scores' verify() returned."
        )
    sections = [_summary(scores, prompts), _top_sites(scores, k)]
    if agreement is not None:
        sections.append(_agreement(agreement))
    elif is_estimate(made):
        unchecked = _UNCHECKED.format(method=name_method(made.method))
        sections.append(Section("Not checked against exact patching", (unchecked,)))
    sections.append(Section("Maps", figures=(scores.plot(),)))
    if ablation is not None:
        sections.append(_ablation(ablation, ablation_note))
    sections += [_subspace(key, scores) for key in scores.reports]
    sections.append(_provenance(made, ablation))
    return write_report(
        path,
        title or f"{_name(made)}: {made.task or 'custom task'} on {made.model}",
        sections,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _name(made: Provenance) -> str:
    return capitalize(name_method(made.method) if is_estimate(made) else "activation patching")


def _summary(scores: PatchScores, prompts: PromptPairs | None) -> Section:
    made, first = scores.provenance, next(iter(scores.sites.values()))
    what, base = name_patch(made)
    if is_estimate(made):
        done = (
            f"What putting {what} into the {base} run would do, one site at a time, was estimated by "
            f"{name_method(made.method)}; no site was patched for it."
        )
    else:
        done = f"{capitalize(what)} were put into the {base} run, one site at a time."
    text = f"{done} {_WHAT_SCORES_MEAN[scores.direction]}"
    return summary_section(text, made.metric, first.clean, first.corrupted, prompts)


def _top_sites(scores: PatchScores, k: int) -> Section:
    estimated = is_estimate(scores.provenance)
    metric = scores.provenance.metric or "metric"
    columns = ["place", "site", "recovered", "effect", f"{metric} after patching"]
    rows: list[tuple[Cell, ...]] = [
        (row.name, row.site, row.value, row.effect, row.raw) for row in scores.top(k)
    ]
    text = "Effect is how far the recovered score is from having done nothing; the largest come first."
    if any(site.magnitude is not None for site in scores.values()):
        columns.append("magnitude")
        rows = [(*row, ranked.magnitude) for row, ranked in zip(rows, scores.top(k), strict=True)]
        text = (
            "Effect is how far the recovered score is from having done nothing. The largest magnitudes come first, "
            "which do not vanish where effects along different paths cancel."
        )
    return Section(
        "Top sites",
        (f"{text} All are estimates." if estimated else text,),
        (Table(tuple(columns), tuple(rows)),),
    )


def _agreement(agreement: MethodAgreement) -> Section:
    gaps = agreement.approximate.double() - agreement.exact.double()
    order = gaps.abs().nan_to_num(-1.0).argsort(descending=True, stable=True)[:_DISAGREEMENTS].tolist()
    rows = tuple(
        (
            agreement.names[i],
            float(agreement.exact[i]),
            float(agreement.approximate[i]),
            float(gaps[i]),
            agreement.chosen_as[i] if agreement.chosen_as else "all",
        )
        for i in order
    )
    text = (
        f"{agreement.summary()}.",
        "Effects of the same sites by both; those that differ most:",
    )
    table = Table(("place", "exact effect", "estimated effect", "difference", "checked as"), rows)
    return Section("Checked against exact patching", text, (table,), (agreement.plot(),))


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
