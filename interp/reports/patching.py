"""The report of a patching run: what matters, the pictures, and how the numbers were made."""

from __future__ import annotations

from pathlib import Path

from interp.reports.page import Section, Table, write_report
from interp.results import AblationCheck, PatchScores, Provenance

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
    ablation: AblationCheck | None = None,
    title: str | None = None,
    k: int = 15,
) -> Path:
    """Write patching scores as one self-contained HTML file, and return its path.

    It holds the baselines, the ``k`` sites of the largest effect, a figure for each component (the
    residual stream and the sublayers share one), subspace reports, the ablation check where one is
    given, and the provenance. Raises :class:`~interp.errors.ExportError` as :func:`write_report` does.
    """
    made = scores.provenance
    sections = [_summary(scores), _top_sites(scores, k)]
    if ablation is not None:
        sections.append(_ablation(ablation))
    sections.append(Section("Maps", figures=(scores.plot(),)))
    sections += [_subspace(key, scores) for key in scores.reports]
    sections.append(_provenance(made, ablation))
    return write_report(
        path,
        title or f"Activation patching: {made.task or 'custom task'} on {made.model}",
        sections,
        subtitle=made.summary(),
        footer=f"Written by interp {made.versions.get('interp', '')}. Every number is in the provenance's units.",
    )


def _summary(scores: PatchScores) -> Section:
    # metrics do not depend on the site, but a subspace or label may be scored on its own baseline
    first = next(iter(scores.sites.values()))
    rows = (
        ("clean run", first.clean),
        ("corrupted run", first.corrupted),
        ("gap", first.clean - first.corrupted),
    )
    table = Table(("baseline", scores.provenance.metric or "metric"), rows)
    return Section("What was done", (_DIRECTIONS[scores.direction],), (table,))


def _top_sites(scores: PatchScores, k: int) -> Section:
    rows = tuple((row.name, row.site, row.value, row.effect, row.raw) for row in scores.top(k))
    metric = scores.provenance.metric or "metric"
    table = Table(("place", "site", "recovered", "effect", f"{metric} after patching"), rows)
    text = "Effect is how far the recovered score is from having done nothing; the largest come first."
    return Section("Top sites", (text,), (table,))


def _ablation(check: AblationCheck) -> Section:
    random = check.random_recovered
    rows = (
        ("clean run", check.clean, 1.0),
        (f"{', '.join(check.names)} ablated", check.ablated, check.recovered),
        (f"{len(random)} random sets, mean", float(check.random.mean()), float(random.mean())),
        ("corrupted run", check.corrupted, 0.0),
    )
    text = (
        f"The strongest {len(check.names)} were ablated together in the clean run "
        f"({check.provenance.ablation}), beside as many others drawn at random. "
        f"{check.random_as_strong:.0%} of the random sets move the metric as far as the chosen set."
    )
    table = Table(("run", check.provenance.metric or "metric", "recovered"), rows)
    return Section("Ablated together", (text,), (table,), (check.plot(),))


def _subspace(key: str, scores: PatchScores) -> Section:
    report = scores.reports[key]
    text = (report.warning,) if report.warning else ("No sign of a subspace illusion.",)
    return Section(f"Subspace {key}", text, (), (report.plot(),))


def _provenance(made: Provenance, ablation: AblationCheck | None) -> Section:
    fields = {name: value for name, value in made.to_dict().items() if name not in ("notes", "versions")}
    rows = [(name.replace("_", " "), _plain(value)) for name, value in fields.items() if value is not None]
    rows += [("note", note) for note in made.notes]
    if ablation is not None:
        rows += [("note on the ablation", note) for note in ablation.provenance.notes]
    rows += list(made.versions.items())
    return Section("Provenance", tables=(Table(("", "value"), tuple(rows)),))


def _plain(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
