"""The report of approximate methods compared: tables of agreement, the figure, and the costs."""

from __future__ import annotations

from pathlib import Path

from interp.reports.page import Cell, Section, Table, write_report
from interp.reports.sections import provenance_section
from interp.results import MethodComparison

_TABLES = {"pearson": "Pearson correlation", "spearman": "Spearman correlation"}
_INTRODUCTION = (
    "Each approximate method scored every place of each site, and exact patching ran every patch. A number is the "
    "correlation of both over the places of a site, on effects averaged over prompts, with {confidence:.0%} bootstrap "
    "intervals over places: 1 is perfect agreement, 0 none. A correlation says nothing of scale: effects that are all "
    "twice too large still agree perfectly."
)
_COSTS = (
    "One call for all sites, timed after a call that is not; peak memory is the most bytes of tensors alive at once "
    "beside the weights, where it was measured."
)


def comparison_report(comparison: MethodComparison, path: str | Path, *, title: str | None = None) -> Path:
    """Write a comparison of methods as one self-contained HTML file, and return its path.

    Its tables have the layout of table 1 of the RelP paper (arXiv 2508.21258): a row a model and
    task, and for each site a column a method; one of Pearson and one of Spearman correlation. The
    figure, seconds and memory follow, then the provenance. Raises
    :class:`~interp.errors.ExportError` as :func:`write_report` does.
    """
    text = _INTRODUCTION.format(confidence=comparison.confidence)
    sections = [
        Section("Agreement with exact patching", (text,)),
        *(Section(name, tables=(_agreement(comparison, statistic),)) for statistic, name in _TABLES.items()),
        Section("Every model and task", figures=(comparison.plot("pearson"), comparison.plot("spearman"))),
        Section("Costs", (_COSTS,), _costs(comparison)),
        provenance_section(comparison.shared_provenance),
    ]
    n = len(comparison.cases)
    models = ", ".join(dict.fromkeys(model for model, _ in comparison.cases))
    return write_report(
        path,
        title or f"Approximate methods against exact patching: {models}",
        sections,
        subtitle=f"{', '.join(comparison.methods)} on {n} {'task' if n == 1 else 'models and tasks'}",
        footer="Written by interp.",
    )


def _agreement(comparison: MethodComparison, statistic: str) -> Table:
    """A row a model and task; columns of all methods, grouped by site."""
    _, cells = comparison.table(statistic)
    # a line may break before an interval, not in it
    rows = tuple(tuple(cell.replace(", ", ",\u00a0") for cell in row) for row in cells)
    methods, sites = comparison.methods, comparison.sites
    groups = (("", 2), *((site, len(methods)) for site in sites))
    return Table(("model", "task", *(methods * len(sites))), rows, groups)


def _costs(comparison: MethodComparison) -> tuple[Table, ...]:
    """Seconds, and peak memory where it is known: a row a model and task, a column a method."""
    methods = tuple(dict.fromkeys(cost.method for cost in comparison.costs))
    seconds = {(cost.model, cost.task, cost.method): cost.seconds for cost in comparison.costs}
    peaks = {
        (cost.model, cost.task, cost.method): cost.peak_bytes / 2**20
        for cost in comparison.costs
        if cost.peak_bytes is not None
    }
    found = []
    for heading, known in (("seconds", seconds), ("peak memory beside the weights, MiB", peaks)):
        rows: list[tuple[Cell, ...]] = [
            (model, task, *(known.get((model, task, method)) for method in methods))
            for model, task in comparison.cases
        ]
        if known:
            groups = (("", 2), (heading, len(methods)))
            found.append(Table(("model", "task", *methods), tuple(rows), groups))
    return tuple(found)
